"""The verbs that relations are read from, in all their forms."""

from __future__ import annotations

from typing import Literal, NamedTuple

from orchestrator.workflows.extraction.words import word_set

__all__ = ["BE_FORMS", "FINITE", "HELPERS", "NOUN_LIKE", "VERBS", "VerbForm"]

Form = Literal["base", "present", "past", "participle", "progressive"]


class VerbForm(NamedTuple):
    """One written form; `active` and `passive` are how its verb reads in a predicate."""

    form: Form
    active: str
    passive: str
    negative: str


BE_FORMS = frozenset({"is", "are", "was", "were", "be", "been", "being"})
HELPERS = word_set(
    "has have had can could will would may might must should shall does do did to gets get got became becomes"
)

# Facts that hold read in the present ("uses"); events read in the past ("acquired").
_LASTING = """
accept access add affect aim allow apply assign attach avoid authenticate begin belong block break bring
build bundle cache call carry cause cause change check choose claim combine commit communicate compare
compile complement compose compress compute configure connect consist consume contain contribute control
convert coordinate copy cover create decide declare decode define delegate delete deliver depend describe
deserialize detect determine differ direct dispatch display distribute drive emit employ enable encode
encrypt enforce ensure evaluate execute expect explain expose express extend fetch filter find finish flow
follow force format forward generate give govern guarantee guard guide handle help hide hold host identify
ignore implement import improve include increase index influence inherit initialize inject inspect install
integrate interact invoke isolate issue iterate join keep label launch lead leave let limit link list listen
live load lock log maintain make manage map mark match measure merge migrate mirror modify monitor mount
move multiply need note notify offer open operate orchestrate override own parse pass perform persist poll
power prefer prepare present preserve prevent process produce promise protect provide publish pull push
query queue raise reach read receive recognize reconnect reside recommend record recover reduce reference
refer refuse register reject rely remain remove render replace reply report represent request require
resemble resolve restore restrict return reuse reverse rewrite route run sample save scale scan schedule
search see select send separate serialize serve set share show sign simplify solve sort specify split start
state stay stop store stream subclass subscribe suggest supersede supply support surround survive switch
synchronize take target tell terminate test throw track transfer transform translate transmit trigger trust
update upgrade use validate verify visit wait want watch work wrap write yield
"""
_EVENTS = """
acquire adopt announce appoint arrest attack attend award bear buy capture celebrate collaborate compete
conquer crown defeat defend design destroy develop die direct discover divorce earn elect employ establish
expand explore fight fire found fund hire inspire introduce invade invent invest kill lose manufacture marry
meet merge murder nominate occupy organize paint partner play pioneer praise privatize propose purchase
receive release rename resign retire sell shoot study succeed sue teach train win
"""
# Base, past, participle.
_IRREGULAR = """
bear bore born, become became become, begin began begun, break broke broken, bring brought brought,
build built built, buy bought bought, choose chose chosen, drive drove driven, fight fought fought, find
found found, forget forgot forgotten, give gave given, hide hid hidden, hold held held, keep kept kept,
lead led led, leave left left, let let let, lose lost lost, make made made, meet met met, override
overrode overridden, read read read, rewrite rewrote rewritten, run ran run, see saw seen, sell sold
sold, send sent sent, set set set, shoot shot shot, show showed shown, split split split, take took
taken, teach taught taught, tell told told, throw threw thrown, win won won, write wrote written
"""
_DOUBLING = word_set("commit log map plan stop submit wrap run set get let split begin scan refer emit transmit")


def _present(verb: str) -> str:
    if verb.endswith(("s", "x", "z", "ch", "sh")) or verb in ("go", "do"):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def _past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if verb in _DOUBLING else "") + "ed"


def _progressive(verb: str) -> str:
    if verb == "die":
        return "dying"
    if verb.endswith("e") and not verb.endswith(("ee", "ye")):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if verb in _DOUBLING else "") + "ing"


def _past_forms() -> dict[str, tuple[str, str]]:
    triples = (entry.split() for entry in _IRREGULAR.split(","))
    return {base: (past, participle) for base, past, participle in triples}


def _forms(verb: str, irregular: dict[str, tuple[str, str]], *, event: bool) -> dict[str, VerbForm]:
    past, participle = irregular.get(verb, (_past(verb), _past(verb)))
    active = past if event else _present(verb)
    passive = f"{'was' if event else 'is'} {participle}"
    # Later entries win: what is both past and participle is told apart by the words around it.
    spelled: list[tuple[str, Form]] = [
        (verb, "base"), (participle, "participle"), (past, "past"), (_present(verb), "present"),
        (_progressive(verb), "progressive"),
    ]  # fmt: skip
    negative = f"{'did' if event else 'does'} not {verb}"
    return {text: VerbForm(form, active, passive, negative) for text, form in spelled}


def _lexicon() -> dict[str, VerbForm]:
    lexicon: dict[str, VerbForm] = {}
    irregular = _past_forms()
    for verb in _LASTING.split():
        lexicon.update(_forms(verb, irregular, event=False))
    for verb in _EVENTS.split():
        lexicon.update(_forms(verb, irregular, event=True))
    return lexicon


VERBS = _lexicon()
# Forms that after a name are as often a plural: "AWS requests", "Git mounts".
NOUN_LIKE = word_set(
    "requests calls mounts sets maps queues tests logs locks lists links labels limits marks matches "
    "measures models names notes offers orders records references reports routes samples saves scales "
    "schedules scores shares signs stages starts states stops streams switches updates upgrades waits "
    "watches loads checks changes claims covers causes displays filters forms hosts issues processes pushes "
    "ranks searches sorts splits tracks transfers transforms triggers"
)
FINITE = frozenset(word for word, verb in VERBS.items() if verb.form in ("present", "past")) | word_set(
    "is was has had can will may must should does did went came said became works makes means seems began "
    "made took gave"
)
