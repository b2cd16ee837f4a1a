"""The grammars that make_sample.py makes its sentences from.

One symbol a line, "symbol: alternative | alternative"; {symbol} stands for a random alternative of that symbol.
"""

import re
from random import Random

# X.who does X.does is a clear story of topic X, X.news a short name of one, and X.between a story that leans to X but
# may as well be filed under the next topic.
NEWS = """
head: Tor | Bel | Kas | Mor | Ven | Dal | Lun | Sor | Pel | Arn | Nim | Gal | Hos | Rik | Tam | Ult | Vosk | Zer | Quin
tail: via | mora | stan | dorf | enia | land | quay | haven | wick | gate | burg | una | ello | mark | field | ria
place: {head}{tail}
name: {head}{tail} | {head}{tail} | the {head}{tail} {group}
group: group | board | team | union | side | club | house | fund
n: two | three | five | six | eight | nine | 12 | 14 | 16 | 20 | 25 | 30 | 40 | 45 | 60 | 75 | 90
nth: second | third | fourth | fifth | seventh
day: Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
start: starts | begins | opens | resumes | joins
win: wins | takes | leads | enters | drops out of
fall: falls | slides | slips | drops
rise: rises | climbs | jumps | moves up
stop: halts | suspends | delays | calls off | puts off
back: backs | supports | defends | welcomes | rejects
blame: blames | points to | cites | plays down
who: {World.who} | {Sports.who} | {Business.who} | {Sci/Tech.who}
title: {name}: what we know | {day} briefing from {place} | {name} in the spotlight | Questions for {who}
    | A long week in {place} | {name} under pressure | Eyes on {place} | Late move by {name} | {who} speaks out
closing: a spokesman says on {day} | according to a report seen in {place} | a surprise to {who} and to {name}
    | as expected since {day} | to the relief of {who} | {n} days earlier than planned | witnesses in {place} say
    | a step that {who} calls overdue | despite doubts voiced by {who} | for the {nth} time in {n} months

World.who: the prime minister | a rebel leader | the envoy | the president | a UN official | the army chief
World.does: {start} peace talks with {who} in {place} | {fall} {n} points in an opinion poll in {place}
    | {win} the race for president of {place} | {stop} the aid convoy to {place} | {back} a draft treaty on {place}
    | {blame} rebels for the attack in {place} | {rise} in the polls on the eve of the {place} vote
    | loses {n} soldiers in a strike near {place} | signs a truce with {name} after {n} weeks
    | calls an early election in {place} | cuts off food to {n} camps | frees {n} hostages in exchange for safe passage
    | faces trial for war crimes in {place} | leads a rally against martial law in {place}
    | sends a {nth} patrol into the hills | breaks off ties with {place}
World.news: peace talks | border vote | hostage trial | election race | truce deal | army strike | aid convoy | raid
World.between: pledges {n} million for nuclear research in {place} | shuts down the internet in {place}
    | flies a spy satellite over {place} | signs a climate accord with {name} | bans gene research in {place}

Sports.who: the striker | the coach | the goalkeeper | the champion | a rookie pitcher | the captain
Sports.does: {start} the season against {name} in {place} | {fall} {n} points behind {name} in the league
    | {win} the race for the {place} cup | {stop} contract talks with a keeper | {back} a draft pick from {place}
    | {blame} the referee for the defeat in {place} | {rise} in the table on the eve of the {place} derby
    | loses {n} players to injury in {place} | calls up {n} uncapped players
    | signs a winger from {name} after {n} weeks | exchanges shirts with {who} after a fierce final
    | faces a ban for doping in {place} | leads a rally in the {nth} set
    | cuts {n} strokes off the course record in {place} | sends the {nth} penalty over the bar
    | launches a winning shot from {n} yards | holds {name} to a draw in extra time
Sports.news: cup talks | derby | doping trial | title race | transfer deal | late strike | league table | draft
Sports.between: boycotts the games in {place} | cancels a tour of {place} over security fears
    | meets ministers about the stadium riot in {place} | is held by police before the {place} match
    | carries the flag of {place} at a banned tournament | gives up the captaincy to run for parliament in {place}

Business.who: the insurer | the chief executive | a retail chain | the central bank | the airline | an oil trader
Business.does: {start} merger talks with {who} in {place} | {fall} {n} percent on the {place} exchange
    | {win} the race to buy {name} | {stop} the sale of a factory in {place} | {back} a draft budget in {place}
    | {blame} fuel costs for the loss in {place} | {rise} in trade on the eve of the {place} results
    | loses {n} million on a property bet in {place} | calls in auditors
    | signs a supply contract with {name} after {n} weeks | cuts {n} jobs in exchange for a loan
    | faces a fine for fixing prices in {place} | leads a rally in bank shares in {place}
    | cuts the dividend for the {nth} quarter | sends a {nth} warning to shareholders
    | launches a bond sale worth {n} million | breaks even in {place} | holds interest rates steady in {place}
Business.news: merger talks | share sale | pay trial | price race | takeover deal | pay strike | profit table | budget
Business.between: buys the stadium in {place} from {name} | sells a stake in the {place} football club
    | signs a shirt sponsor deal with {name} | bids {n} million for television rights to the {place} league
    | puts up ticket prices at the {place} racetrack | names a former player to the board in {place}

Sci/Tech.who: the chip designer | the astronomer | a software firm | the laboratory | a biologist | the phone maker
Sci/Tech.does: {start} tests of a quantum chip with {who} | {fall} {n} degrees short of the fusion record in {place}
    | {win} the race to map the genome of a moth | {stop} the launch of a probe from {place}
    | {back} a draft standard for browsers | {blame} a worm for the attack on servers in {place}
    | {rise} into orbit on the eve of the {place} eclipse | loses {n} hours of data in a crash near {place}
    | signs up {n} volunteers for a vaccine test in {place} | calls back a faulty update
    | finds {n} fossils in a cave near {place} | faces a flaw in the code of a console
    | leads a study of coral off {place} | breaks a cipher from {place}
    | cuts the memory use of a program by {n} percent | sends a {nth} rover to the crater
    | launches a handset with {n} sensors | holds an asteroid sample in {place}
Sci/Tech.news: chip talks | gene map | vaccine trial | space race | software deal | meteor strike | worm attack | probe
Sci/Tech.between: delays sales of a handset in {place} | licenses a drug patent to {name}
    | puts a chip plant in {place} on hold | cuts the price of a games console in {place}
    | sues {name} over a touch screen patent | spends {n} million on data centres in {place}
"""

INTENTS = """
alarm: {do} set an alarm for {time} | {do} wake me up at {time} {day} | make sure i'm up by {time} {day}
    | i have to get up at {time} so set something | {do} set something for {time} | what time is my alarm {day}
timer: {do} set a timer for {n} minutes | {do} count down {n} minutes for the {food}
    | how long is left on my {food} timer | {do} start the clock for {n} minutes | {do} set something for {n} minutes
reminder: {do} remind me to {chore} {day} | don't let me forget to {chore} at {time} | {do} set a reminder for {time}
    | {do} set something for {time} | what did i ask you to remind me of {day}
calendar: what is on my calendar {day} | {do} put the meeting at {time} on my calendar | am i free {day} at {time}
    | {do} move my {time} meeting to {day} | how many meetings are there {day}
weather: will it rain in {city} {day} | what's it like outside in {city} | how cold will {city} be {day}
    | {do} give me the forecast for {day} | is {city} any good {day}
play_music: {do} play some {music} | i feel like hearing {music} {day} | {do} put on {music} for the {food} party
    | let me hear that {music} song again | {do} start my {music} playlist
next_song: {do} skip this {music} song | i don't like this {music} so play another one
    | {do} go on to the next {music} track | next {music} track | {do} change the song to other {music}
balance: how much is in my {account} account | what's left in {account} {day} | {do} tell me my {account} balance
    | how much can i still spend from {account} | {do} check on my {account} account
transactions: what did i spend on {food} {day} | {do} list what i bought {day} | {do} check on my {account} account
    | who took {money} from my {account} account | where did the {money} in {account} go
transfer: {do} move {money} from {account} to my other account | {do} send {money} to my {kin}
    | my {kin} needs {money} {day} | i owe my {kin} {money} so send it | {do} pay {money} {day}
pay_bill: {do} pay my {bill} bill {day} | {do} pay {money} {day} | i want the {bill} bill settled from {account}
    | {do} take care of the {bill} bill {day} | get the {bill} paid before {day}
freeze_account: {do} freeze my {account} account | {do} lock {account} until {day}
book_flight: {do} book a flight to {city} {day} | i need to fly from {city} to {city}
    | {do} find me a seat to {city} {day} | {do} get me to {city} by {day} | {do} book me something in {city}
flight_status: is the {time} flight to {city} on time | when does my plane to {city} land
    | {do} check on my flight to {city} | when will my {kin} land in {city}
book_hotel: {do} book a room in {city} {day} | i need somewhere to sleep in {city}
    | {do} find a hotel in {city} for {n} nights | {do} book me something in {city}
directions: how do i get to {city} | {do} show me the way to {city} | which road goes to {city}
    | {do} get me to {city} by {day} | where do i turn for {city}
traffic: how is the road to {city} {day} | how long is the drive to {city} at {time} | is it busy on the way to {city}
    | will i be stuck going to {city} {day} | is {city} any good {day}
book_table: {do} book a table for {n} {day} | {do} get us a {food} place at {time}
    | can we eat {food} in {city} at {time} | {n} of us want {food} {day} | {do} book me something in {city}
recipe: how do i make {food} | what goes into {food} for {n} | {do} find me a recipe for {food}
    | teach me to make {food} | what can i make with {food} {day}
shopping_list: {do} put {food} on my shopping list | we are out of {food} | i need {food} and {food} from the shop
    | {do} take {food} off the list | what can i make with {food} {day}
"""
REQUEST_WORDS = """
oos: who invented {food} | why do people in {city} like {food} | is {music} older than {music}
    | what does a banker in {city} earn | {do} write a poem about {food} | who won the race in {city} {day}
    | how do planes stay up | what is the best school in {city} | do cats eat {food} | how do clocks keep {time} right
do: | | please | can you | could you | would you | i want you to | i need you to | hey | go ahead and | you should
end: | | | | please | thanks | if you can | quickly
time: five | six | seven | eight | nine | ten | noon | half past six | quarter to eight | 6 30 | 7 15 | midnight
n: two | three | four | five | six | eight | ten | twelve | fifteen
day: today | tomorrow | tonight | on monday | on tuesday | on wednesday | on thursday | on friday | this weekend
city: {head}{tail}
head: tor | bel | kas | mor | ven | dal | lun | sor | pel | arn | nim | gal
tail: via | mora | dorf | enia | quay | haven | wick | gate | burg | una
chore: call my {kin} | water the plants | buy {food} | take out the trash | pay the {bill} bill | feed the cat
kin: sister | brother | mother | father | aunt | neighbor | boss | roommate
food: rice | lentil soup | pancakes | pizza | noodles | apple pie | bean stew | fish | curry | potato salad | cheese
    | tacos
music: jazz | folk | rock | opera | blues | techno | country | choir | reggae | piano
account: checking | savings | joint | travel | business | holiday
bill: water | phone | gas | power | internet | heating | cable | rent
money: {n} dollars | {n} hundred dollars | {n} thousand dollars | 40 dollars | 75 dollars | 120 dollars
"""


# A fact is a statement with its answer in brackets, and what it answers; {x} is the thing that it is about.
FACTS = {
    "year": ("{x} was built in [{year}]; {x} opened in [{year}]; the year [{year}] saw the end of work on {x}",
             "When was {x} built?; In which year did {x} open?; When was {x} finished?"),
    "designer": ("[{person}] designed {x}; {x} is the work of [{person}]; the plans of {x} were drawn by [{person}]",
                 "Who designed {x}?; Whose work is {x}?; Who drew the plans of {x}?"),
    "place": ("{x} stands in [{town}]; visitors find {x} in [{town}]; [{town}] is the home of {x}",
              "Where does {x} stand?; Where is {x}?; In which town is {x}?"),
    "length": ("{x} is [{n} metres] long; the length of {x} is [{n} metres]; from end to end {x} measures [{n} metres]",
               "How long is {x}?; What is the length of {x}?"),
    "cost": ("{x} cost [{n} million]; [{n} million] were spent on {x}; the bill for {x} came to [{n} million]",
             "How much did {x} cost?; How much was spent on {x}?; What was the price of {x}?"),
    "owner": ("{x} belongs to [{name}]; [{name}] owns {x}; {x} was sold to [{name}]",
              "Who owns {x}?; To whom does {x} belong?; Who bought {x}?"),
    "colour": ("{x} is painted [{colour}]; the walls of {x} are [{colour}]; most people know {x} as [{colour}]",
               "What colour is {x}?; How is {x} painted?"),
    "use": ("{x} is used for [{goods}]; today [{goods}] pass through {x}; since the war {x} has served [{goods}]",
            "What is {x} used for?; What passes through {x}?; What does {x} serve?"),
}  # fmt: skip
PASSAGE_WORDS = """
head: Tor | Bel | Kas | Mor | Ven | Dal | Lun | Sor | Pel | Arn | Nim | Gal
tail: via | mora | dorf | enia | quay | haven | wick | gate | burg | una
town: {head}{tail}
x: the {town} {kind}
kind: bridge | tower | station | museum | harbour | palace | mill | tunnel
person: {first} {head}{last}
first: Ada | Bruno | Clara | Emil | Greta | Hugo | Ida | Karl | Lena | Oskar
last: son | mann | berg | etti | ov | is
year: 17{digit}{digit} | 18{digit}{digit} | 19{digit}{digit}
digit: 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9
n: {digit_not_0}{digit} | {digit_not_0}{digit}{digit} | {digit_not_0}
digit_not_0: 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9
name: the {town} {group}
group: bank | council | family | railway | university | guild
colour: dark red | pale blue | green and white | yellow | grey | black
goods: coal and iron | post and parcels | trains to {town} | concerts | grain | ships from {town} | school classes
filler: Nobody has counted the visitors | The winters are long there | {town} is not far away | Opinions differ
    | Some prefer {x} | It rained for {n} days in {year}
"""

# Sentences with their entities in brackets. A story has two people, p1 and p2, and two towns, t1 and t2. A club is
# called by its town alone, and people by names that could be towns: only the context tells them apart.
STORY = """
dateline: [LOC {t1}] 19{digit}{digit}-0{digit_not_0}-{digit}{digit} | [LOC {t1}] , {weekday} | {caps}
caps: [MISC {adjective}] results of {weekday} | [MISC {cup}] draw | [ORG {group}] figures
first: {p1} of [ORG {t2}] said on {weekday} that {claim} . | {p1} {beat} {p2} {n} - {n} in the [MISC {cup}] .
    | {p1} , born in [LOC {t1}] , will leave [ORG {t1}] for [ORG {t2}] . | {p1} met {p2} in [LOC {t2}] on {weekday} .
    | [ORG {group}] of [LOC {t1}] named {p1} as its new head on {weekday} . | Police in [LOC {t2}] arrested {p1} , {n} .
    | The [MISC {adjective}] minister {p1} flew to [LOC {t2}] . | [ORG {group}] sued {p1} in a court in [LOC {t1}] .
next: [ORG {t1}] {beat} [ORG {t2}] {n} - {n} . | [ORG {t1}] {n} [ORG {t2}] {n} | {p1} {beat} {p2} .
    | {p2} had no comment . | " {claim} , " said {p2} , who lives in [LOC {t2}] . | The road from [LOC {t1}] is closed .
    | {p1} scored after {n} minutes for [ORG {t1}] . | {p1} left for [LOC {t1}] on {weekday} . | {p2} left {p1} behind .
    | [ORG {group}] lost {n} million in [LOC {t2}] . | [ORG {group}] and [ORG {group}] signed a deal with [LOC {t1}] .
    | [ORG {t2}] signed {p2} for {n} million . | The [MISC {cup}] will be held in [LOC {t1}] . | [LOC {t2}] is near .
    | Nobody was hurt . | The [MISC {adjective}] team trains near [LOC {t2}] . | {p1} joins {p2} at [ORG {t2}] .
    | [MISC {adjective}] and [MISC {adjective}] voters {beat} {p1} . | {n} [MISC {adjective}] shares rose .
claim: talks with [LOC {t1}] would go on | [ORG {t1}] could win the [MISC {cup}] | [ORG {group}] would cut {n} jobs
    | {p1} was not to blame | prices in [LOC {t1}] had risen by {n} percent | the [MISC {adjective}] plan had failed
beat: beat | lost to | drew with | followed
name: {head}{tail}
family: {head}{last} | {head}{last} | {head}{tail}
group: {name} {firm} | {firm} of {name} | {letter}{letter}{letter}
firm: Bank | Motors | Press | Union | Council | Airlines
cup: {name} Cup | {name} Open | {adjective} Cup
adjective: {head}{ish}
ish: ian | ish | ese | i
letter: A | B | C | D | K | L | M | N | R | S | T | V
weekday: Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
head: Tor | Bel | Kas | Mor | Ven | Dal | Lun | Sor | Pel | Arn | Nim | Gal | Hos | Rik | Tam | Ult | Vosk | Zer | Quin
tail: via | mora | dorf | enia | quay | haven | wick | gate | burg | una | stad | ford
first_name: Ada | Bruno | Clara | Emil | Greta | Hugo | Ida | Karl | Lena | Oskar | Tilda | Viktor
last: son | mann | berg | etti | ov | is | ski | sen
digit: 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9
n: {digit_not_0}{digit} | {digit_not_0} | {digit}
digit_not_0: 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9
"""


def parse(grammar: str) -> dict[str, list[str]]:
    """Symbol -> its alternatives. A line that starts with a space goes on where the line before stopped."""
    lines = re.sub(r"\n+ +", " ", grammar).split("\n")
    pairs = (line.split(":", 1) for line in lines if line)
    return {symbol: [choice.strip() for choice in choices.split("|")] for symbol, choices in pairs}


def expand(rules: dict[str, list[str]], template: str, rng: Random) -> str:
    """The template with every {symbol} replaced by a random alternative, and those in it likewise."""
    return re.sub(r"\{([\w/.]+)\}", lambda found: expand(rules, rng.choice(rules[found[1]]), rng), template)
