"""The admin's policy: what of a direction, an idea or a diff is refused, and what a person has to look at first."""

from __future__ import annotations

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, TypeVar

from fumehood.domain.ids import ULID
from fumehood.errors import BadInputError

MOST_CHARACTERS: Final = 100_000
"""What is longer is looked at by a person: cut short, it could hide what comes after."""
MOST_FILE_BYTES: Final = 1_000_000
JUDGE: Final = "judge"
"""What the judge's verdicts are named by."""
ADMIN: Final = "admin"
"""What an admin's own verdicts are named by; no rule may have these two names."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}\Z")
_TENANT = re.compile(rf"ten_{ULID}\Z")
_RULE_KEYS = frozenset(
    {"name", "applies_to", "terms", "pattern", "templates", "tenants", "verdict", "reason"},
)
_JUDGE_KEYS = frozenset({"model", "instructions", "applies_to"})
_FLAGS = re.IGNORECASE | re.MULTILINE
Chosen = TypeVar("Chosen", bound=StrEnum)
Search = Callable[[str, str], bool]
"""Takes a pattern and a text; says whether it is found, or raises `TimeoutError`."""


class Subject(StrEnum):
    """What is screened."""

    DIRECTION = "direction"
    IDEA = "idea"
    DIFF = "diff"
    """What a coder's edit adds to the code."""


class PolicyVerdict(StrEnum):
    """What the policy says; the later ones are stricter."""

    ALLOWED = "allowed"
    NEEDS_A_PERSON = "needs a person"
    REFUSED = "refused"


_STRICTNESS = list(PolicyVerdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """What came of looking at one text."""

    verdict: PolicyVerdict = PolicyVerdict.ALLOWED
    rule: str = ""
    """The rule's name, or `judge`; empty where nobody had anything to say."""
    reason: str = ""

    @property
    def sentence(self) -> str:
        """What a researcher reads, without a full stop."""
        known = {JUDGE: "the policy's judge", ADMIN: "an admin"}
        who = known.get(self.rule, f"the rule {self.rule} of the policy")
        does = {PolicyVerdict.REFUSED: "refuses this", PolicyVerdict.NEEDS_A_PERSON: "wants an admin to look at this"}
        return f"{who} {does.get(self.verdict, 'allows this')}: {self.reason.rstrip('.')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: where its terms or its pattern are found, its verdict holds."""

    name: str
    applies_to: frozenset[Subject]
    verdict: PolicyVerdict
    reason: str
    terms: tuple[str, ...] = ()
    pattern: str = ""
    templates: frozenset[str] = frozenset()
    """Only these; empty means all."""
    tenants: frozenset[str] = frozenset()
    """Only these, by id; empty means all."""

    def concerns(self, subject: Subject, template: str, tenant: str) -> bool:
        """Whether the rule looks at this at all."""
        return (
            subject in self.applies_to
            and (not self.templates or template in self.templates)
            and (not self.tenants or tenant in self.tenants)
        )

    def screen(self, text: str, search: Search) -> Screening | None:
        """Return the rule's verdict on a text, or None where nothing of it is found.

        What cannot be found out in time, or is too long to be looked at, is not taken for harmless.
        """
        if len(text) > MOST_CHARACTERS:
            return self._unsure(f"it is longer than {MOST_CHARACTERS} characters, too long for this rule")
        simple = plain(text)
        if self.terms and re.search(_any_of(self.terms), simple, _FLAGS):
            return Screening(verdict=self.verdict, rule=self.name, reason=self.reason)
        try:
            if self.pattern and search(self.pattern, simple):
                return Screening(verdict=self.verdict, rule=self.name, reason=self.reason)
        except TimeoutError:
            return self._unsure("its pattern took too long to search for")
        return None

    def _unsure(self, reason: str) -> Screening:
        return Screening(verdict=PolicyVerdict.NEEDS_A_PERSON, rule=self.name, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that is asked besides the rules."""

    model: str
    instructions: str
    applies_to: frozenset[Subject]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All rules of an installation, and its judge. Without a file there are none, and everything is allowed."""

    rules: tuple[Rule, ...] = ()
    judge: Judge | None = None
    sha256: str = ""
    """Of the file, so that a verdict tells which policy it came from."""

    def asks(self, subject: Subject) -> bool:
        """Whether anything looks at such a thing."""
        return self.judges(subject) or any(subject in rule.applies_to for rule in self.rules)

    def judges(self, subject: Subject) -> bool:
        """Whether the judge looks at such a thing."""
        return self.judge is not None and subject in self.judge.applies_to

    def by_rules(self, subject: Subject, text: str, *, template: str, tenant: str, search: Search) -> Screening:
        """Return what the rules say; the strictest, and of equals the first in the file."""
        concerned = (rule for rule in self.rules if rule.concerns(subject, template, tenant))
        return strictest(found for rule in concerned if (found := rule.screen(text, search)) is not None)


def strictest(found: Iterable[Screening]) -> Screening:
    """Return the strictest verdict, of equals the first that somebody gave; allowed where there is none."""
    return max(found, key=lambda one: (_STRICTNESS.index(one.verdict), bool(one.rule)), default=Screening())


def plain(text: str) -> str:
    """Return a text as rules read it: one form for letters that look alike to Python, and nothing invisible."""
    # First without what is invisible: it could stand between a letter and its accent.
    return unicodedata.normalize("NFKC", "".join(one for one in text if unicodedata.category(one) != "Cf"))


def _any_of(terms: Iterable[str]) -> str:
    # As whole words, with any white space where a term has some; nothing in it can be tried in more than one way.
    words = (r"\s+".join(map(re.escape, plain(term).split())) for term in terms)
    return rf"(?<!\w)(?:{'|'.join(words)})(?!\w)"


def parse(data: bytes, source: str) -> Policy:
    """Return the policy that a file holds; `BadInputError` names the file, the rule and what is wrong."""
    file = _Place(f"The policy file {source}")
    if len(data) > MOST_FILE_BYTES:
        file.refuse(f"is larger than {MOST_FILE_BYTES} bytes")
    try:
        told = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        file.refuse(f"is no TOML: {str(error).rstrip('.') or 'it is nested too deeply'}")
    file.only(told, frozenset({"rule", JUDGE}))
    given = told.get("rule", [])
    if not isinstance(given, list):
        file.refuse("has no list of rules: write each as [[rule]]")
    rules = tuple(_rule(one, number, file) for number, one in enumerate(given, 1))
    names = [rule.name for rule in rules]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        file.refuse(f"has two rules named {doubled[0]}")
    judge = _judge(told[JUDGE], file) if JUDGE in told else None
    if not rules and judge is None:
        # An empty file is more likely one that was cut short than one that means to allow everything.
        file.refuse("holds no rule and no judge; to allow everything, name no file")
    return Policy(rules=rules, judge=judge, sha256=hashlib.sha256(data).hexdigest())


def _rule(told: object, number: int, file: _Place) -> Rule:
    place = file.inside(f"rule {number}")
    table = place.table(told)
    name = place.text(table, "name", 60)
    if not _NAME.match(name) or name in {JUDGE, ADMIN}:
        place.refuse(f"has the name {name!r}: give small letters, digits, - and _, and neither {JUDGE} nor {ADMIN}")
    place = file.inside(f"the rule {name}")
    place.only(table, _RULE_KEYS)
    if ("terms" in table) == ("pattern" in table):
        place.refuse("needs either terms or a pattern, and not both")
    verdict = place.choice(table, "verdict", PolicyVerdict)
    if verdict is PolicyVerdict.ALLOWED:
        place.refuse("has the verdict 'allowed', which everything has that no rule speaks of")
    tenants = frozenset(place.texts(table, "tenants", 100)) if "tenants" in table else frozenset()
    if strange := sorted(one for one in tenants if not _TENANT.match(one)):
        # A name that is misspelt would be a rule that never holds.
        place.refuse(f"names the tenant {strange[0]!r}: give ids, as `fumehood admin tenant list` prints them")
    return Rule(
        name=name,
        applies_to=place.subjects(table),
        verdict=verdict,
        reason=place.text(table, "reason", 500),
        terms=place.texts(table, "terms", 200) if "terms" in table else (),
        pattern=place.pattern(table) if "pattern" in table else "",
        templates=frozenset(place.texts(table, "templates", 100)) if "templates" in table else frozenset(),
        tenants=tenants,
    )


def _judge(told: object, file: _Place) -> Judge:
    place = file.inside("[judge]")
    table = place.table(told)
    place.only(table, _JUDGE_KEYS)
    model = place.text(table, "model", 200)
    if model.partition("-")[0] == "offline":
        place.refuse("names the offline model, which answers from a playbook and has no judgement")
    return Judge(model=model, instructions=place.text(table, "instructions", 20_000), applies_to=place.subjects(table))


class _Place:
    """Where in the file something stands, for the sentence that refuses it."""

    def __init__(self, words: str) -> None:
        self._words = words

    def inside(self, words: str) -> _Place:
        return _Place(f"{self._words}: {words}")

    def refuse(self, why: str) -> NoReturn:
        raise BadInputError(f"{self._words} {why}.")

    def table(self, told: object) -> Mapping[str, object]:
        if not isinstance(told, dict):
            self.refuse("is no table")
        return told

    def only(self, table: Mapping[str, object], known: frozenset[str]) -> None:
        if strange := sorted(set(table) - known):
            self.refuse(f"has the unknown key {strange[0]!r}; there are {', '.join(sorted(known))}")

    def text(self, table: Mapping[str, object], key: str, most: int) -> str:
        found = table.get(key)
        if not isinstance(found, str) or not found.strip() or len(found) > most:
            self.refuse(f"needs {key}: a text of at most {most} characters")
        return found.strip()

    def texts(self, table: Mapping[str, object], key: str, most: int) -> tuple[str, ...]:
        found = table.get(key)
        if not isinstance(found, list) or not found:
            self.refuse(f"needs {key}: a list of texts")
        for one in found:
            if not isinstance(one, str) or not plain(one).strip() or len(one) > most:
                self.refuse(f"has in {key} what is no text of at most {most} characters")
        return tuple(found)

    def choice(self, table: Mapping[str, object], key: str, kind: type[Chosen]) -> Chosen:
        words = [one.value for one in kind]
        found = table.get(key)
        if found not in words:
            self.refuse(f"has the {key} {found!r}; there are {', '.join(words)}")
        return kind(str(found))

    def subjects(self, table: Mapping[str, object]) -> frozenset[Subject]:
        words = self.texts(table, "applies_to", 20)
        return frozenset(self.choice({"applies_to": word}, "applies_to", Subject) for word in words)

    def pattern(self, table: Mapping[str, object]) -> str:
        found = self.text(table, "pattern", 2000)
        try:
            re.compile(found, _FLAGS)
        except (re.error, OverflowError, RecursionError) as error:
            self.refuse(f"has a pattern that is no regular expression: {error}")
        return found
