"""The word lists that the offline rules stand on. All are lower case."""

from __future__ import annotations

__all__ = [
    "ABBREVIATIONS",
    "ADVERBS",
    "COMMON_WORDS",
    "CONNECTORS",
    "DETERMINERS",
    "FUNCTION_WORDS",
    "MONTHS",
    "NEGATIONS",
    "PREPOSITIONS",
    "SHOUTED",
    "VAGUE_NOUNS",
    "WEEKDAYS",
    "looks_common",
    "word_set",
]


def word_set(text: str) -> frozenset[str]:
    """Read a list of words that is separated by white space."""
    return frozenset(text.split())


MONTHS = word_set(
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec"
)
WEEKDAYS = word_set("monday tuesday wednesday thursday friday saturday sunday")
ABBREVIATIONS = word_set(
    "mr mrs ms dr prof sr jr st gen col capt lt sgt rev hon gov sen rep e.g i.e eg ie etc vs cf al fig "
    "figs no nos vol pp ca approx inc ltd co corp llc dept est univ ed eds art sec ch eq ref u.s u.k jan "
    "feb mar apr jun jul aug sep sept oct nov dec a.m p.m"
)
DETERMINERS = word_set("a an the this that these those its his her their our your my each every some any no both all")
PREPOSITIONS = word_set(
    "of in on at for by from with to into onto over under through via between among against without "
    "within across after before during since until as than near behind above below inside outside upon "
    "toward towards per about"
)
NEGATIONS = word_set("not never no neither nor cannot can't don't doesn't didn't isn't aren't wasn't weren't won't")
ADVERBS = word_set(
    "also now then still already always often usually sometimes only just even later soon once first finally "
    "formerly originally again too thus therefore instead both currently never not"
)
CONNECTORS = word_set("of de la le du da di del della van von der den bin al ibn")
VAGUE_NOUNS = word_set(
    "lot bit few same way one thing case result problem reason good bad must number kind sort part matter "
    "set need little couple must-have no-op"
)
FUNCTION_WORDS = word_set(
    "a an the this that these those i you he she it we they me him us them my your his her its our their "
    "mine yours who whom whose which what when where why how and or but nor so yet if then else because "
    "while although though unless until since as of in on at for by from with to into onto over under "
    "through via between among against without within across after before during about above below near "
    "behind than per is are was were be been being am has have had having do does did done can could will "
    "would shall should may might must not no yes there here all any both each every few many more most "
    "much other others another some such only own same too very just also even still already again once "
    "first second third last next one two three four five six seven eight nine ten however therefore "
    "moreover furthermore meanwhile otherwise instead nevertheless thus hence finally please either "
    "neither whether whatever whenever wherever whichever up down out off let's let it's that's there's "
    "i'm i've i'll you're you'll we're we've they're he's she's what's don't doesn't isn't can't won't "
    "etc"
)
SHOUTED = word_set(
    "a i ok and or not no yes the is are was be to of in on at by for if as it do so up we you all any "
    "can may new old must should shall will use see todo note fixme warning important tip info error true "
    "false null none nil select insert update delete from where join into values table create alter drop "
    "index set order group having limit begin commit rollback grant key primary foreign unique default "
    "default exists with union distinct get put post patch head options am pm vs done wip tbd readme "
    "license changelog contributing copyright ceo cto cfo coo i.e e.g hardcoded danger caution before "
    "after run stop start never always only"
)
COMMON_WORDS = word_set(
    # What headings, labels and steps of documents begin with.
    "abstract access account action activity add added additional address admin agent alert algorithm "
    "alternative alternatives amount analysis answer app appendix apps application approach architecture "
    "argument arguments article aspect assumption assumptions attempt attribute author authors "
    "availability background backup backend base baseline basic basics batch behavior behaviour benchmark "
    "benefit benefits best better block blocks body book branch bug bugs build builds button cache call "
    "calls case cases category cause causes caution chance change changed changelog changes chapter "
    "character check checklist checkpoint checks choice city class classes clean cleanup clear client "
    "clients code collection column command commands comment common community company comparison complete "
    "completed complexity component components concept conclusion concurrency condition config "
    "configuration connect connection consequence considerations consider constraint constraints contact "
    "content contents context contract control copy core cost count country create created creates "
    "critical current custom customer data database date day days deadline debug decision decisions "
    "default defaults define definition deliverables demo deploy deployment description design desired "
    "detail details detection developer developers development diagram difference directory discussion "
    "display distributed document documentation documents docs domain download driver drivers duration "
    "dynamic easy edge edit effect effort element email embedded empty enable enabled end endpoint "
    "endpoints engine ensure entity entities entry environment error errors estimate evaluation event "
    "events everything evidence example examples exception execute execution executive existing exit "
    "expected experience export external extension extract extraction fact factory fail failed failure "
    "failures fallback family fast feature features feedback field fields figure file files fix fixed "
    "fixes flag flags flow folder follow following format forward framework free full function functions "
    "future general get give global go goal goals good graph great group guide handle handler happy "
    "hardware health hello help high highlights history home host hour hours house human idea ideas image "
    "impact implement implementation import important improve improvement index info information "
    "infrastructure initial initialize input insert inspect install installation instance instead "
    "instructions integration interface internal introduction investigation issue issues item items job "
    "jobs keep key keys label language large later latency launch law layer layers lead learn legacy "
    "length lesson letter level library license life like limit limitation limitations limits line lines "
    "link links linux list listen lists load local location lock log logging logic login logs long look "
    "loop low machine main maintain major make manage management manager manual map market master match "
    "maximum measure meeting member memory menu merge message messages metadata method methods metric "
    "metrics middle migrate migration minimal minimum minute mission missing mode model models module "
    "modules monitor monitoring month move multiple name names native navigate need network never new "
    "news node nodes none note notes nothing notice number object objective objectives objects "
    "observability offline old online open operation operations operator option optional options order "
    "original output overall overview owner package packages page pages parallel parameter parameters "
    "parent part parse parser part parts pass password paste path pattern patterns pause people percent "
    "performance period permission persistence person phase phases pick pipeline place plaintext plan "
    "plans platform plugin plugins point points policy pool port position possible pre press preview "
    "previous primary principle principles print prior priority private pro problem problems procedure "
    "process processes processing product production profile program progress project projects promise "
    "proof properties property proposal proposed protocol provide provided provider public pull purpose "
    "push put quality query question questions queue queues quick quickstart range rate ratio raw read "
    "reader readiness real reason reasons recent recommended recommendation recommendations record "
    "records recovery reference references region register related release releases reliability remaining "
    "remember remote remove replace replay report reports repository request requests require required "
    "requirement requirements research reset resolution resource resources response responses rest "
    "restart result results resume retention retry return returns review risk risks role roles rollback "
    "rollout root route row rows rule rules run runner running runs runtime safe safety sample save scale "
    "scenario schedule schema scheme scope score script scripts search section security see select send "
    "sequence serial server servers service services session sessions set setting settings setup several "
    "share shared ship short show side signal signals similar simple simply single site size slow small "
    "software solution solutions some sort source space special specific spec stack stage stages standard "
    "start started state statement states static status step steps stop storage store stores story "
    "strategy stream streaming streams string strong structure style subject success successful suggested "
    "suggestion suite summary support supported sure switch sync system systems table tables tag tags "
    "take target targets task tasks team teams technical template temporary term test tested tester "
    "testing tests text theme then theory thing things thread threads time timeline timeout times tip "
    "tips title today token tokens tool tooling tools top topic topics total track tracking transaction "
    "transactions transfer transform transition translate transport tree trigger true truth try turn "
    "tutorial type types ui unit units unknown unless update updated updates upgrade usage use used user "
    "users uses using utility validate validation value values variable variables various vendor "
    "verification verify version versions via view views vision visual wait want warning warnings watch "
    "way ways web website week weeks welcome wide window windows work worker workers workflow workflows "
    "working world wrap write writer writes year years yesterday zero"
    # Other openings of sentences in prose.
    "according adding afterwards ago almost alone along altogether among answer anyone anything apart "
    "apparently around art asked assume away baby bad ball bank battle bear beautiful become becoming "
    "began begin behind believe beyond big bill bird birds black blue board boat bread bring broken "
    "brother brown business buy by car care certain certainly child children choose church clearly close "
    "cloud cold color come compare compared computer contrary cool could course court critics crucially "
    "cut dark dead dear death deep despite different dinner do dog door double dozens dr draw dream drive "
    "dry due early earlier earth east eat eight eighteen eleven elsewhere enough evening eventually ever "
    "everybody everyone evil exactly eye eyes face fair fall far farmers father fear feel feet fell fewer "
    "fifteen fifty fight find fine fire fish flat floor flowers food foot force forget forms fresh friday "
    "friend friends front fun further game garden gather generally girl glass god gold gone green ground "
    "grow guess hair half hall hand hands hard hardly hat head hear heart heat heavy hence hers herself "
    "hidden himself hold holding hope horse hot hours how hundred hundreds hurry husband ice imagine in "
    "indeed inside interesting iron island itself join judge jump kids kill kind king kitchen knew know "
    "knowing lady lake land lastly late lately latter laugh lay least leave left less lest light likewise "
    "literature little live living lord lost lots love luck lunch mad maybe meant mean means meat men "
    "mere might mind mine money moon moreover morning mostly mother mountain mouth mr mrs music my myself "
    "natural nature near nearly nice night nine nobody noise nor normal north nose notably nowadays "
    "obviously occasionally odd officer officials often oh oil older opposite ought ourselves outside "
    "overnight paint paper parents party past peace perfect perhaps picture pieces plain plants play "
    "pleasure plenty poor prepare present president pretty price prices prime prince probably proud prove "
    "queen quiet quite race rain rather ready realistically red regarding regardless remarkably rich ride "
    "right rise river road rock room round sad said sand saw say says scene school science scientists sea "
    "seat secret secretary seem seldom sell sense set seven seventeen shape sharp she shop shut sick sign "
    "silence silver sing sir sister sit six sixteen skin sky sleep slowly smile snow soft soil soldiers "
    "someone something somewhere son song soon sound south speak speech spring spread square stand star "
    "stars stay steel stone storm straight strange street strength strictly strike students studies study "
    "such sudden suddenly suffice sugar summer sun supper suppose surely sweet swim sword tail talk tall "
    "taste teach teacher tell ten than thank thanks therefore thick thin think thirty thirteen those "
    "though thought thousand thousands three throughout tiny together tomorrow tonight toward town trade "
    "train travel trees tried trouble truly trust twelve twenty twice two typically ugly ultimately uncle "
    "understand undo unfortunately unlike upon usual usually valley village visit visitors voice walk "
    "wall war warm wash waste water wear weather well went west wet whatever wheel whereas whether white "
    "whoever whole whose wife wild win wind wine winter wise within without woman women wonder wood word "
    "words worse worst worth would wrong yard yellow yes yet young"
)
_COMMON_ENDINGS = (
    "ing", "ed", "ly", "tion", "tions", "sion", "sions", "ment", "ments", "ness", "able", "ible", "ful", "less",
    "ity", "ities", "ance", "ence", "ous", "ive", "ical", "ency", "ancy", "ism", "ized", "izes", "ize",
)  # fmt: skip


def looks_common(word: str) -> bool:
    """Whether a lower-case word is more likely ordinary English than a name, judging by itself."""
    if word in FUNCTION_WORDS or word in COMMON_WORDS or word in ADVERBS:
        return True
    if "-" in word:
        return all(looks_common(part) for part in word.split("-"))
    if word.endswith("s") and (word[:-1] in COMMON_WORDS or word[:-3] + "y" in COMMON_WORDS):
        return True
    return len(word) > 5 and word.endswith(_COMMON_ENDINGS)
