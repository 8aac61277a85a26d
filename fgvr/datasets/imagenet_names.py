"""The categories of ImageNet-1k: WordNet ids in the order of class indices, with the English names of CLIP's prompts.

Two of those names come twice; as in FOCI, the second "missile" is "projectile" and the first "sunglasses" "sunglass".
"""

from __future__ import annotations

_TEXT = """
01440764 tench; 01443537 goldfish; 01484850 great white shark; 01491361 tiger shark; 01494475 hammerhead shark;
01496331 electric ray; 01498041 stingray; 01514668 rooster; 01514859 hen; 01518878 ostrich; 01530575 brambling;
01531178 goldfinch; 01532829 house finch; 01534433 junco; 01537544 indigo bunting; 01558993 American robin; 01560419
bulbul; 01580077 jay; 01582220 magpie; 01592084 chickadee; 01601694 American dipper; 01608432 kite (bird of prey);
01614925 bald eagle; 01616318 vulture; 01622779 great grey owl; 01629819 fire salamander; 01630670 smooth newt;
01631663 newt; 01632458 spotted salamander; 01632777 axolotl; 01641577 American bullfrog; 01644373 tree frog; 01644900
tailed frog; 01664065 loggerhead sea turtle; 01665541 leatherback sea turtle; 01667114 mud turtle; 01667778 terrapin;
01669191 box turtle; 01675722 banded gecko; 01677366 green iguana; 01682714 Carolina anole; 01685808 desert grassland
whiptail lizard; 01687978 agama; 01688243 frilled-necked lizard; 01689811 alligator lizard; 01692333 Gila monster;
01693334 European green lizard; 01694178 chameleon; 01695060 Komodo dragon; 01697457 Nile crocodile; 01698640 American
alligator; 01704323 triceratops; 01728572 worm snake; 01728920 ring-necked snake; 01729322 eastern hog-nosed snake;
01729977 smooth green snake; 01734418 kingsnake; 01735189 garter snake; 01737021 water snake; 01739381 vine snake;
01740131 night snake; 01742172 boa constrictor; 01744401 African rock python; 01748264 Indian cobra; 01749939 green
mamba; 01751748 sea snake; 01753488 Saharan horned viper; 01755581 eastern diamondback rattlesnake; 01756291 sidewinder
rattlesnake; 01768244 trilobite; 01770081 harvestman; 01770393 scorpion; 01773157 yellow garden spider; 01773549 barn
spider; 01773797 European garden spider; 01774384 southern black widow; 01774750 tarantula; 01775062 wolf spider;
01776313 tick; 01784675 centipede; 01795545 black grouse; 01796340 ptarmigan; 01797886 ruffed grouse; 01798484 prairie
grouse; 01806143 peafowl; 01806567 quail; 01807496 partridge; 01817953 african grey parrot; 01818515 macaw; 01819313
sulphur-crested cockatoo; 01820546 lorikeet; 01824575 coucal; 01828970 bee eater; 01829413 hornbill; 01833805
hummingbird; 01843065 jacamar; 01843383 toucan; 01847000 duck; 01855032 red-breasted merganser; 01855672 goose;
01860187 black swan; 01871265 tusker; 01872401 echidna; 01873310 platypus; 01877812 wallaby; 01882714 koala; 01883070
wombat; 01910747 jellyfish; 01914609 sea anemone; 01917289 brain coral; 01924916 flatworm; 01930112 nematode; 01943899
conch; 01944390 snail; 01945685 slug; 01950731 sea slug; 01955084 chiton; 01968897 chambered nautilus; 01978287
Dungeness crab; 01978455 rock crab; 01980166 fiddler crab; 01981276 red king crab; 01983481 American lobster; 01984695
spiny lobster; 01985128 crayfish; 01986214 hermit crab; 01990800 isopod; 02002556 white stork; 02002724 black stork;
02006656 spoonbill; 02007558 flamingo; 02009229 little blue heron; 02009912 great egret; 02011460 bittern bird;
02012849 crane bird; 02013706 limpkin; 02017213 common gallinule; 02018207 American coot; 02018795 bustard; 02025239
ruddy turnstone; 02027492 dunlin; 02028035 common redshank; 02033041 dowitcher; 02037110 oystercatcher; 02051845
pelican; 02056570 king penguin; 02058221 albatross; 02066245 grey whale; 02071294 killer whale; 02074367 dugong;
02077923 sea lion; 02085620 Chihuahua; 02085782 Japanese Chin; 02085936 Maltese; 02086079 Pekingese; 02086240 Shih Tzu;
02086646 King Charles Spaniel; 02086910 Papillon; 02087046 toy terrier; 02087394 Rhodesian Ridgeback; 02088094 Afghan
Hound; 02088238 Basset Hound; 02088364 Beagle; 02088466 Bloodhound; 02088632 Bluetick Coonhound; 02089078 Black and Tan
Coonhound; 02089867 Treeing Walker Coonhound; 02089973 English foxhound; 02090379 Redbone Coonhound; 02090622 borzoi;
02090721 Irish Wolfhound; 02091032 Italian Greyhound; 02091134 Whippet; 02091244 Ibizan Hound; 02091467 Norwegian
Elkhound; 02091635 Otterhound; 02091831 Saluki; 02092002 Scottish Deerhound; 02092339 Weimaraner; 02093256
Staffordshire Bull Terrier; 02093428 American Staffordshire Terrier; 02093647 Bedlington Terrier; 02093754 Border
Terrier; 02093859 Kerry Blue Terrier; 02093991 Irish Terrier; 02094114 Norfolk Terrier; 02094258 Norwich Terrier;
02094433 Yorkshire Terrier; 02095314 Wire Fox Terrier; 02095570 Lakeland Terrier; 02095889 Sealyham Terrier; 02096051
Airedale Terrier; 02096177 Cairn Terrier; 02096294 Australian Terrier; 02096437 Dandie Dinmont Terrier; 02096585 Boston
Terrier; 02097047 Miniature Schnauzer; 02097130 Giant Schnauzer; 02097209 Standard Schnauzer; 02097298 Scottish
Terrier; 02097474 Tibetan Terrier; 02097658 Australian Silky Terrier; 02098105 Soft-coated Wheaten Terrier; 02098286
West Highland White Terrier; 02098413 Lhasa Apso; 02099267 Flat-Coated Retriever; 02099429 Curly-coated Retriever;
02099601 Golden Retriever; 02099712 Labrador Retriever; 02099849 Chesapeake Bay Retriever; 02100236 German Shorthaired
Pointer; 02100583 Vizsla; 02100735 English Setter; 02100877 Irish Setter; 02101006 Gordon Setter; 02101388 Brittany
dog; 02101556 Clumber Spaniel; 02102040 English Springer Spaniel; 02102177 Welsh Springer Spaniel; 02102318 Cocker
Spaniel; 02102480 Sussex Spaniel; 02102973 Irish Water Spaniel; 02104029 Kuvasz; 02104365 Schipperke; 02105056
Groenendael dog; 02105162 Malinois; 02105251 Briard; 02105412 Australian Kelpie; 02105505 Komondor; 02105641 Old
English Sheepdog; 02105855 Shetland Sheepdog; 02106030 collie; 02106166 Border Collie; 02106382 Bouvier des Flandres
dog; 02106550 Rottweiler; 02106662 German Shepherd Dog; 02107142 Dobermann; 02107312 Miniature Pinscher; 02107574
Greater Swiss Mountain Dog; 02107683 Bernese Mountain Dog; 02107908 Appenzeller Sennenhund; 02108000 Entlebucher
Sennenhund; 02108089 Boxer; 02108422 Bullmastiff; 02108551 Tibetan Mastiff; 02108915 French Bulldog; 02109047 Great
Dane; 02109525 St. Bernard; 02109961 husky; 02110063 Alaskan Malamute; 02110185 Siberian Husky; 02110341 Dalmatian;
02110627 Affenpinscher; 02110806 Basenji; 02110958 pug; 02111129 Leonberger; 02111277 Newfoundland dog; 02111500 Great
Pyrenees dog; 02111889 Samoyed; 02112018 Pomeranian; 02112137 Chow Chow; 02112350 Keeshond; 02112706 brussels griffon;
02113023 Pembroke Welsh Corgi; 02113186 Cardigan Welsh Corgi; 02113624 Toy Poodle; 02113712 Miniature Poodle; 02113799
Standard Poodle; 02113978 Mexican hairless dog (xoloitzcuintli); 02114367 grey wolf; 02114548 Alaskan tundra wolf;
02114712 red wolf or maned wolf; 02114855 coyote; 02115641 dingo; 02115913 dhole; 02116738 African wild dog; 02117135
hyena; 02119022 red fox; 02119789 kit fox; 02120079 Arctic fox; 02120505 grey fox; 02123045 tabby cat; 02123159 tiger
cat; 02123394 Persian cat; 02123597 Siamese cat; 02124075 Egyptian Mau; 02125311 cougar; 02127052 lynx; 02128385
leopard; 02128757 snow leopard; 02128925 jaguar; 02129165 lion; 02129604 tiger; 02130308 cheetah; 02132136 brown bear;
02133161 American black bear; 02134084 polar bear; 02134418 sloth bear; 02137549 mongoose; 02138441 meerkat; 02165105
tiger beetle; 02165456 ladybug; 02167151 ground beetle; 02168699 longhorn beetle; 02169497 leaf beetle; 02172182 dung
beetle; 02174001 rhinoceros beetle; 02177972 weevil; 02190166 fly; 02206856 bee; 02219486 ant; 02226429 grasshopper;
02229544 cricket insect; 02231487 stick insect; 02233338 cockroach; 02236044 praying mantis; 02256656 cicada; 02259212
leafhopper; 02264363 lacewing; 02268443 dragonfly; 02268853 damselfly; 02276258 red admiral butterfly; 02277742 ringlet
butterfly; 02279972 monarch butterfly; 02280649 small white butterfly; 02281406 sulphur butterfly; 02281787
gossamer-winged butterfly; 02317335 starfish; 02319095 sea urchin; 02321529 sea cucumber; 02325366 cottontail rabbit;
02326432 hare; 02328150 Angora rabbit; 02342885 hamster; 02346627 porcupine; 02356798 fox squirrel; 02361337 marmot;
02363005 beaver; 02364673 guinea pig; 02389026 common sorrel horse; 02391049 zebra; 02395406 pig; 02396427 wild boar;
02397096 warthog; 02398521 hippopotamus; 02403003 ox; 02408429 water buffalo; 02410509 bison; 02412080 ram (adult male
sheep); 02415577 bighorn sheep; 02417914 Alpine ibex; 02422106 hartebeest; 02422699 impala (antelope); 02423022
gazelle; 02437312 arabian camel; 02437616 llama; 02441942 weasel; 02442845 mink; 02443114 European polecat; 02443484
black-footed ferret; 02444819 otter; 02445715 skunk; 02447366 badger; 02454379 armadillo; 02457408 three-toed sloth;
02480495 orangutan; 02480855 gorilla; 02481823 chimpanzee; 02483362 gibbon; 02483708 siamang; 02484975 guenon; 02486261
patas monkey; 02486410 baboon; 02487347 macaque; 02488291 langur; 02488702 black-and-white colobus; 02489166 proboscis
monkey; 02490219 marmoset; 02492035 white-headed capuchin; 02492660 howler monkey; 02493509 titi monkey; 02493793
Geoffroy's spider monkey; 02494079 common squirrel monkey; 02497673 ring-tailed lemur; 02500267 indri; 02504013 Asian
elephant; 02504458 African bush elephant; 02509815 red panda; 02510455 giant panda; 02514041 snoek fish; 02526121 eel;
02536864 silver salmon; 02606052 rock beauty fish; 02607072 clownfish; 02640242 sturgeon; 02641379 gar fish; 02643566
lionfish; 02655020 pufferfish; 02666196 abacus; 02667093 abaya; 02669723 academic gown; 02672831 accordion; 02676566
acoustic guitar; 02687172 aircraft carrier; 02690373 airliner; 02692877 airship; 02699494 altar; 02701002 ambulance;
02704792 amphibious vehicle; 02708093 analog clock; 02727426 apiary; 02730930 apron; 02747177 trash can; 02749479
assault rifle; 02769748 backpack; 02776631 bakery; 02777292 balance beam; 02782093 balloon; 02783161 ballpoint pen;
02786058 Band-Aid; 02787622 banjo; 02788148 baluster / handrail; 02790996 barbell; 02791124 barber chair; 02791270
barbershop; 02793495 barn; 02794156 barometer; 02795169 barrel; 02797295 wheelbarrow; 02799071 baseball; 02802426
basketball; 02804414 bassinet; 02804610 bassoon; 02807133 swimming cap; 02808304 bath towel; 02808440 bathtub; 02814533
station wagon; 02814860 lighthouse; 02815834 beaker; 02817516 military hat (bearskin or shako); 02823428 beer bottle;
02823750 beer glass; 02825657 bell tower; 02834397 baby bib; 02835271 tandem bicycle; 02837789 bikini; 02840245 ring
binder; 02841315 binoculars; 02843684 birdhouse; 02859443 boathouse; 02860847 bobsleigh; 02865351 bolo tie; 02869837
poke bonnet; 02870880 bookcase; 02871525 bookstore; 02877765 bottle cap; 02879718 hunting bow; 02883205 bow tie;
02892201 brass memorial plaque; 02892767 bra; 02894605 breakwater; 02895154 breastplate; 02906734 broom; 02909870
bucket; 02910353 buckle; 02916936 bulletproof vest; 02917067 high-speed train; 02927161 butcher shop; 02930766 taxicab;
02939185 cauldron; 02948072 candle; 02950826 cannon; 02951358 canoe; 02951585 can opener; 02963159 cardigan; 02965783
car mirror; 02966193 carousel; 02966687 tool kit; 02971356 cardboard box / carton; 02974003 car wheel; 02977058
automated teller machine; 02978881 cassette; 02979186 cassette player; 02980441 castle; 02981792 catamaran; 02988304 CD
player; 02992211 cello; 02992529 mobile phone; 02999410 chain; 03000134 chain-link fence; 03000247 chain mail; 03000684
chainsaw; 03014705 storage chest; 03016953 chiffonier; 03017168 bell or wind chime; 03018349 china cabinet; 03026506
Christmas stocking; 03028079 church; 03032252 movie theater; 03041632 cleaver; 03042490 cliff dwelling; 03045698 cloak;
03047690 clogs; 03062245 cocktail shaker; 03063599 coffee mug; 03063689 coffeemaker; 03065424 spiral or coil; 03075370
combination lock; 03085013 computer keyboard; 03089624 candy store; 03095699 container ship; 03100240 convertible;
03109150 corkscrew; 03110669 cornet; 03124043 cowboy boot; 03124170 cowboy hat; 03125729 cradle; 03126707 construction
crane; 03127747 crash helmet; 03127925 crate; 03131574 infant bed; 03133878 Crock Pot; 03134739 croquet ball; 03141823
crutch; 03146219 cuirass; 03160309 dam; 03179701 desk; 03180011 desktop computer; 03187595 rotary dial telephone;
03188531 diaper; 03196217 digital clock; 03197337 digital watch; 03201208 dining table; 03207743 dishcloth; 03207941
dishwasher; 03208938 disc brake; 03216828 dock; 03218198 dog sled; 03220513 dome; 03223299 doormat; 03240683 drilling
rig; 03249569 drum; 03250847 drumstick; 03255030 dumbbell; 03259280 Dutch oven; 03271574 electric fan; 03272010
electric guitar; 03272562 electric locomotive; 03290653 entertainment center; 03291819 envelope; 03297495 espresso
machine; 03314780 face powder; 03325584 feather boa; 03337140 filing cabinet; 03344393 fireboat; 03345487 fire truck;
03347037 fire screen; 03355925 flagpole; 03372029 flute; 03376595 folding chair; 03379051 football helmet; 03384352
forklift; 03388043 fountain; 03388183 fountain pen; 03388549 four-poster bed; 03393912 freight car; 03394916 French
horn; 03400231 frying pan; 03404251 fur coat; 03417042 garbage truck; 03424325 gas mask or respirator; 03425413 gas
pump; 03443371 goblet; 03444034 go-kart; 03445777 golf ball; 03445924 golf cart; 03447447 gondola; 03447721 gong;
03450230 gown; 03452741 grand piano; 03457902 greenhouse; 03459775 radiator grille; 03461385 grocery store; 03467068
guillotine; 03476684 hair clip; 03476991 hair spray; 03478589 half-track; 03481172 hammer; 03482405 hamper; 03483316
hair dryer; 03485407 hand-held computer; 03485794 handkerchief; 03492542 hard disk drive; 03494278 harmonica; 03495258
harp; 03496892 combine harvester; 03498962 hatchet; 03527444 holster; 03529860 home theater; 03530642 honeycomb;
03532672 hook; 03534580 hoop skirt; 03535780 gymnastic horizontal bar; 03538406 horse-drawn vehicle; 03544143
hourglass; 03584254 iPod; 03584829 clothes iron; 03590841 carved pumpkin; 03594734 jeans; 03594945 jeep; 03595614
T-shirt; 03598930 jigsaw puzzle; 03599486 rickshaw; 03602883 joystick; 03617480 kimono; 03623198 knee pad; 03627232
knot; 03630383 lab coat; 03633091 ladle; 03637318 lampshade; 03642806 laptop computer; 03649909 lawn mower; 03657121
lens cap; 03658185 letter opener; 03661043 library; 03662601 lifeboat; 03666591 lighter; 03670208 limousine; 03673027
ocean liner; 03676483 lipstick; 03680355 slip-on shoe; 03690938 lotion; 03691459 music speaker; 03692522 loupe
magnifying glass; 03697007 sawmill; 03706229 magnetic compass; 03709823 messenger bag; 03710193 mailbox; 03710637
tights; 03710721 one-piece bathing suit; 03717622 manhole cover; 03720891 maraca; 03721384 marimba; 03724870 mask;
03729826 matchstick; 03733131 maypole; 03733281 maze; 03733805 measuring cup; 03742115 medicine cabinet; 03743016
megalith; 03759954 microphone; 03761084 microwave oven; 03763968 military uniform; 03764736 milk can; 03769881 minibus;
03770439 miniskirt; 03770679 minivan; 03773504 missile; 03775071 mitten; 03775546 mixing bowl; 03776460 mobile home;
03777568 ford model t; 03777754 modem; 03781244 monastery; 03782006 monitor; 03785016 moped; 03786901 mortar and
pestle; 03787032 graduation cap; 03788195 mosque; 03788365 mosquito net; 03791053 vespa; 03792782 mountain bike;
03792972 tent; 03793489 computer mouse; 03794056 mousetrap; 03796401 moving van; 03803284 muzzle; 03804744 metal nail;
03814639 neck brace; 03814906 necklace; 03825788 baby pacifier; 03832673 notebook computer; 03837869 obelisk; 03838899
oboe; 03840681 ocarina; 03841143 odometer; 03843555 oil filter; 03854065 pipe organ; 03857828 oscilloscope; 03866082
overskirt; 03868242 bullock cart; 03868863 oxygen mask; 03871628 product packet / packaging; 03873416 paddle; 03874293
paddle wheel; 03874599 padlock; 03876231 paintbrush; 03877472 pajamas; 03877845 palace; 03884397 pan flute; 03887697
paper towel; 03888257 parachute; 03888605 parallel bars; 03891251 park bench; 03891332 parking meter; 03895866 railroad
car; 03899768 patio; 03902125 payphone; 03903868 pedestal; 03908618 pencil case; 03908714 pencil sharpener; 03916031
perfume; 03920288 Petri dish; 03924679 photocopier; 03929660 plectrum; 03929855 Pickelhaube; 03930313 picket fence;
03930630 pickup truck; 03933933 pier; 03935335 piggy bank; 03937543 pill bottle; 03938244 pillow; 03942813 ping-pong
ball; 03944341 pinwheel; 03947888 pirate ship; 03950228 drink pitcher; 03954731 block plane; 03956157 planetarium;
03958227 plastic bag; 03961711 plate rack; 03967562 farm plow; 03970156 plunger; 03976467 Polaroid camera; 03976657
pole; 03977966 police van; 03980874 poncho; 03982430 pool table; 03983396 soda bottle; 03991062 plant pot; 03992509
potter's wheel; 03995372 power drill; 03998194 prayer rug; 04004767 printer; 04005630 prison; 04008634 projectile;
04009552 projector; 04019541 hockey puck; 04023962 punching bag; 04026417 purse; 04033901 quill; 04033995 quilt;
04037443 race car; 04039381 racket; 04040759 radiator; 04041544 radio; 04044716 radio telescope; 04049303 rain barrel;
04065272 recreational vehicle; 04067472 fishing casting reel; 04069434 reflex camera; 04070727 refrigerator; 04074963
remote control; 04081281 restaurant; 04086273 revolver; 04090263 rifle; 04099969 rocking chair; 04111531 rotisserie;
04116512 eraser; 04118538 rugby ball; 04118776 ruler measuring stick; 04120489 sneaker; 04125021 safe; 04127249 safety
pin; 04131690 salt shaker; 04133789 sandal; 04136333 sarong; 04141076 saxophone; 04141327 scabbard; 04141975 weighing
scale; 04146614 school bus; 04147183 schooner; 04149813 scoreboard; 04152593 CRT monitor; 04153751 screw; 04154565
screwdriver; 04162706 seat belt; 04179913 sewing machine; 04192698 shield; 04200800 shoe store; 04201297 shoji screen /
room divider; 04204238 shopping basket; 04204347 shopping cart; 04208210 shovel; 04209133 shower cap; 04209239 shower
curtain; 04228054 ski; 04229816 balaclava ski mask; 04235860 sleeping bag; 04238763 slide rule; 04239074 sliding door;
04243546 slot machine; 04251144 snorkel; 04252077 snowmobile; 04252225 snowplow; 04254120 soap dispenser; 04254680
soccer ball; 04254777 sock; 04258138 solar thermal collector; 04259630 sombrero; 04263257 soup bowl; 04264628 keyboard
space bar; 04265275 space heater; 04266014 space shuttle; 04270147 spatula; 04273569 motorboat; 04275548 spider web;
04277352 spindle; 04285008 sports car; 04286575 spotlight; 04296562 stage; 04310018 steam locomotive; 04311004 through
arch bridge; 04311174 steel drum; 04317175 stethoscope; 04325704 scarf; 04326547 stone wall; 04328186 stopwatch;
04330267 stove; 04332243 strainer; 04335435 tram; 04336792 stretcher; 04344873 couch; 04346328 stupa; 04347754
submarine; 04350905 suit; 04355338 sundial; 04355933 sunglass; 04356056 sunglasses; 04357314 sunscreen; 04366367
suspension bridge; 04367480 mop; 04370456 sweatshirt; 04371430 swim trunks / shorts; 04371774 swing; 04372370
electrical switch; 04376876 syringe; 04380533 table lamp; 04389033 tank; 04392985 tape player; 04398044 teapot;
04399382 teddy bear; 04404412 television; 04409515 tennis ball; 04417672 thatched roof; 04418357 front curtain;
04423845 thimble; 04428191 threshing machine; 04429376 throne; 04435653 tile roof; 04442312 toaster; 04443257 tobacco
shop; 04447861 toilet seat; 04456115 torch; 04458633 totem pole; 04461696 tow truck; 04462240 toy store; 04465501
tractor; 04467665 semi-trailer truck; 04476259 tray; 04479046 trench coat; 04482393 tricycle; 04483307 trimaran;
04485082 tripod; 04486054 triumphal arch; 04487081 trolleybus; 04487394 trombone; 04493381 hot tub; 04501370 turnstile;
04505470 typewriter keyboard; 04507155 umbrella; 04509417 unicycle; 04515003 upright piano; 04517823 vacuum cleaner;
04522168 vase; 04523525 vaulted or arched ceiling; 04525038 velvet fabric; 04525305 vending machine; 04532106 vestment;
04532670 viaduct; 04536866 violin; 04540053 volleyball; 04542943 waffle iron; 04548280 wall clock; 04548362 wallet;
04550184 wardrobe; 04552348 military aircraft; 04553703 sink; 04554684 washing machine; 04557648 water bottle; 04560804
water jug; 04562935 water tower; 04579145 whiskey jug; 04579432 whistle; 04584207 hair wig; 04589890 window screen;
04590129 window shade; 04591157 Windsor tie; 04591713 wine bottle; 04592741 airplane wing; 04596742 wok; 04597913
wooden spoon; 04599235 wool; 04604644 split-rail fence; 04606251 shipwreck; 04612504 sailboat; 04613696 yurt; 06359193
website; 06596364 comic book; 06785654 crossword; 06794110 traffic or street sign; 06874185 traffic light; 07248320
dust jacket; 07565083 menu; 07579787 plate; 07583066 guacamole; 07584110 consomme; 07590611 hot pot; 07613480 trifle;
07614500 ice cream; 07615774 popsicle; 07684084 baguette; 07693725 bagel; 07695742 pretzel; 07697313 cheeseburger;
07697537 hot dog; 07711569 mashed potatoes; 07714571 cabbage; 07714990 broccoli; 07715103 cauliflower; 07716358
zucchini; 07716906 spaghetti squash; 07717410 acorn squash; 07717556 butternut squash; 07718472 cucumber; 07718747
artichoke; 07720875 bell pepper; 07730033 cardoon; 07734744 mushroom; 07742313 Granny Smith apple; 07745940 strawberry;
07747607 orange; 07749582 lemon; 07753113 fig; 07753275 pineapple; 07753592 banana; 07754684 jackfruit; 07760859
cherimoya (custard apple); 07768694 pomegranate; 07802026 hay; 07831146 carbonara; 07836838 chocolate syrup; 07860988
dough; 07871810 meatloaf; 07873807 pizza; 07875152 pot pie; 07880968 burrito; 07892512 red wine; 07920052 espresso;
07930864 tea cup; 07932039 eggnog; 09193705 mountain; 09229709 bubble; 09246464 cliff; 09256479 coral reef; 09288635
geyser; 09332890 lakeshore; 09399592 promontory; 09421951 sandbar; 09428293 beach; 09468604 valley; 09472597 volcano;
09835506 baseball player; 10148035 bridegroom; 10565667 scuba diver; 11879895 rapeseed; 11939491 daisy; 12057211 yellow
lady's slipper; 12144580 corn; 12267677 acorn; 12620546 rose hip; 12768682 horse chestnut seed; 12985857 coral fungus;
12998815 agaric; 13037406 gyromitra; 13040303 stinkhorn mushroom; 13044778 earth star fungus; 13052670 hen of the woods
mushroom; 13054560 bolete; 13133613 corn cob; 15075141 toilet paper
"""
NAMES = {f"n{entry[:8]}": entry[9:] for entry in " ".join(_TEXT.split()).split("; ")}
