"""The policy's file and its rules: what is refused in one sentence, and which verdict holds."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fumehood.domain import policy
from fumehood.domain.policy import MOST_CHARACTERS, Policy, PolicyVerdict, Rule, Screening, Subject, parse, strictest
from fumehood.errors import BadInputError
from fumehood.services import screening
from fumehood.services.searching import search

REFUSED = PolicyVerdict.REFUSED
PAGE = Path(__file__).parents[2] / "docs/policy.md"
RULE = """
[[rule]]
name = "no-malware"
applies_to = ["direction", "idea"]
terms = ["malware"]
verdict = "refused"
reason = "No malware."
"""
JUDGE = """
[judge]
model = "claude-sonnet-4-5"
applies_to = ["diff"]
instructions = "Be strict."
"""
TENANT = "ten_" + "0" * 26


def rule(name: str = "a", verdict: PolicyVerdict = PolicyVerdict.REFUSED, **fields: object) -> Rule:
    given = {"applies_to": frozenset(Subject), "reason": "because", "terms": ("malware",), **fields}
    return Rule(name=name, verdict=verdict, **given)  # type: ignore[arg-type]


def never(_: str, __: str) -> bool:
    raise AssertionError("nothing is to be searched for")


def says(rules: Policy, text: str, subject: Subject = Subject.DIRECTION, **where: str) -> Screening:
    return rules.by_rules(subject, text, **{"template": "tiny", "tenant": TENANT, **where}, search=search)


class TestFile:
    def test_rules_and_judge_are_read(self) -> None:
        found = parse((RULE + JUDGE).encode(), "p.toml")
        (one,) = found.rules
        assert (one.name, one.verdict, one.terms) == ("no-malware", "refused", ("malware",))
        assert found.judge is not None
        assert (found.judge.model, found.judge.applies_to) == ("claude-sonnet-4-5", {Subject.DIFF})
        assert [found.asks(subject) for subject in Subject] == [True, True, True]
        assert [found.judges(subject) for subject in Subject] == [False, False, True]
        assert re.fullmatch("[0-9a-f]{64}", found.sha256)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "holds no rule and no judge"),
            ("rule = [", "is no TOML"),
            ("\xff", "is no TOML"),
            ("rules = []", "has the unknown key 'rules'; there are judge, rule"),
            ("rule = 3", "has no list of rules"),
            ("rule = [3]", "rule 1 is no table"),
            ("judge = 3", "[judge] is no table"),
            (RULE.replace('name = "no-malware"', ""), "rule 1 needs name"),
            (RULE.replace("no-malware", "No Malware"), "rule 1 has the name 'No Malware'"),
            (RULE.replace("no-malware", "judge"), "rule 1 has the name 'judge'"),
            (RULE.replace("no-malware", "admin"), "rule 1 has the name 'admin'"),
            (RULE + RULE, "has two rules named no-malware"),
            (RULE + 'severity = "high"', "the rule no-malware has the unknown key 'severity'"),
            (RULE + 'pattern = "x"', "the rule no-malware needs either terms or a pattern"),
            (RULE.replace('terms = ["malware"]', ""), "the rule no-malware needs either terms or a pattern"),
            (RULE.replace('terms = ["malware"]', 'pattern = "("'), "has a pattern that is no regular expression"),
            (RULE.replace('terms = ["malware"]', 'pattern = ""'), "needs pattern: a text"),
            (RULE.replace('["malware"]', '"malware"'), "the rule no-malware needs terms: a list"),
            (RULE.replace('["malware"]', "[]"), "the rule no-malware needs terms: a list"),
            (RULE.replace('"malware"]', '" "]'), "has in terms what is no text"),
            (RULE.replace('"malware"]', "7]"), "has in terms what is no text"),
            (RULE.replace("refused", "forbidden"), "has the verdict 'forbidden'; there are allowed, needs a person"),
            (RULE.replace('"refused"', "3"), "has the verdict 3"),
            (RULE.replace("refused", "allowed"), "has the verdict 'allowed', which everything has"),
            (RULE.replace('"idea"', '"paper"'), "has the applies_to 'paper'; there are direction, idea, diff"),
            (RULE.replace('["direction", "idea"]', "[]"), "needs applies_to: a list"),
            (RULE.replace("No malware.", " "), "needs reason: a text"),
            (RULE + 'tenants = ["physics"]', "names the tenant 'physics': give ids"),
            (RULE + "templates = [1]", "has in templates what is no text"),
            (JUDGE.replace("claude-sonnet-4-5", "offline"), "names the offline model"),
            (JUDGE.replace("claude-sonnet-4-5", "offline-2"), "names the offline model"),
            (JUDGE + "temperature = 1", "[judge] has the unknown key 'temperature'"),
            (JUDGE.replace('instructions = "Be strict."', ""), "[judge] needs instructions"),
            ("a = [" * 3000, "is no TOML"),
            ("#" * 1_000_001, "is larger than"),
        ],
    )
    def test_what_is_wrong_is_one_sentence_with_file_and_rule(self, text: str, words: str) -> None:
        with pytest.raises(BadInputError) as refused:
            parse(text.encode("latin-1"), "p.toml")
        said = str(refused.value)
        assert said.startswith("The policy file p.toml")
        assert words in said
        assert said.endswith(".")
        assert "\n" not in said

    @pytest.mark.parametrize("name", ["nowhere.toml", ".", "a\0b"])
    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(BadInputError, match=r"FUMEHOOD_POLICY\) cannot be read") as refused:
            screening.load(str(tmp_path / name))
        assert str(refused.value).endswith(".")

    def test_without_a_file_everything_is_allowed(self) -> None:
        nothing = screening.load("")
        assert says(nothing, "malware") == Screening()
        assert not any(nothing.asks(subject) for subject in Subject)

    def test_the_example_in_the_documentation_works(self, tmp_path: Path) -> None:
        (example,) = re.findall(r"<!-- example: begin -->\n```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        (tmp_path / "policy.toml").write_text(example)
        found = screening.load(str(tmp_path / "policy.toml"))
        for text, subject, verdict, name in (
            ("Write better Ransomware.", Subject.DIRECTION, "refused", "no-malware"),
            ("Diagnosing patients from scans.", Subject.IDEA, "needs a person", "patients"),
            ("x = 1\n  from urllib import request", Subject.DIFF, "refused", "no-network-code"),
            ("Patience is a virtue; lower the learning rate.", Subject.IDEA, "allowed", ""),
        ):
            told = says(found, text, subject)
            assert (told.verdict, told.rule) == (verdict, name), text
        assert found.judges(Subject.IDEA)


class TestRules:
    @pytest.mark.parametrize(
        "text",
        ["malware", "MALWARE!", "on mal\u200bware", "\uff4d\uff41\uff4c\uff57\uff41\uff52\uff45", "x\nmalware\ny"],
    )
    def test_a_term_is_found_in_any_case_and_disguise(self, text: str) -> None:
        assert says(Policy(rules=(rule(),)), text).rule == "a"

    @pytest.mark.parametrize("text", ["malwares", "antimalware", "mal ware", ""])
    def test_only_whole_words_are_found(self, text: str) -> None:
        assert says(Policy(rules=(rule(),)), text) == Screening()

    def test_a_phrase_is_found_across_lines(self) -> None:
        assert says(Policy(rules=(rule(terms=("exploit code",)),)), "an exploit\n  code").rule == "a"

    @given(st.text(string.ascii_letters + "+.*?()[]{}|\\^$ -", min_size=1, max_size=20).filter(str.strip))
    def test_a_term_means_itself_whatever_is_in_it(self, term: str) -> None:
        assert says(Policy(rules=(rule(terms=(term,)),)), f"one {term} two").rule == "a"

    def test_a_pattern_is_found_at_lines_and_in_any_case(self) -> None:
        rules = Policy(rules=(rule(terms=(), pattern=r"^import\s+socket$"),))
        assert says(rules, "x = 1\nIMPORT socket\ny = 2").rule == "a"
        assert says(rules, "# import socket") == Screening()

    def test_a_rule_speaks_only_of_what_it_names(self) -> None:
        rules = Policy(
            rules=(
                rule("one", applies_to=frozenset({Subject.IDEA})),
                rule("two", templates=frozenset({"other"})),
                rule("three", tenants=frozenset({"ten_" + "1" * 26})),
            )
        )
        assert says(rules, "malware") == Screening()
        assert says(rules, "malware", Subject.IDEA).rule == "one"
        assert says(rules, "malware", template="other").rule == "two"
        assert says(rules, "malware", tenant="ten_" + "1" * 26).rule == "three"

    def test_a_text_too_long_to_be_looked_at_needs_a_person(self) -> None:
        found = rule(verdict=PolicyVerdict.REFUSED).screen("x" * (MOST_CHARACTERS + 1), never)
        assert found is not None
        assert (found.verdict, "too long" in found.reason) == (PolicyVerdict.NEEDS_A_PERSON, True)

    def test_a_pattern_that_takes_too_long_needs_a_person(self) -> None:
        def slow(pattern: str, text: str) -> bool:
            return search(pattern, text, limit_s=0.3)

        found = rule(terms=(), pattern=r"(a+)+$").screen("a" * 40 + "b", slow)
        assert found is not None
        assert (found.verdict, "too long" in found.reason) == (PolicyVerdict.NEEDS_A_PERSON, True)

    def test_a_search_that_breaks_is_no_answer(self) -> None:
        with pytest.raises(TimeoutError):
            search("(", "never compiled")

    @given(st.lists(st.sampled_from(PolicyVerdict), max_size=6))
    def test_the_strictest_holds_and_of_equals_the_first(self, verdicts: list[PolicyVerdict]) -> None:
        order = list(PolicyVerdict)
        found = strictest(Screening(verdict=one, rule=str(number)) for number, one in enumerate(verdicts))
        assert all(order.index(found.verdict) >= order.index(one) for one in verdicts)
        if verdicts:
            assert int(found.rule) == verdicts.index(found.verdict)
        else:
            assert found == Screening()

    @given(st.text(max_size=200))
    @example("cafe\u200b\u0301")
    def test_a_text_reads_the_same_however_often_it_is_made_plain(self, text: str) -> None:
        assert policy.plain(policy.plain(text)) == policy.plain(text)

    @pytest.mark.parametrize(
        ("found", "sentence"),
        [
            (Screening(verdict=REFUSED, rule="x", reason="No."), "the rule x of the policy refuses this: No"),
            (
                Screening(verdict=PolicyVerdict.NEEDS_A_PERSON, rule="judge", reason="odd"),
                "the policy's judge wants an admin to look at this: odd",
            ),
            (Screening(verdict=PolicyVerdict.ALLOWED, rule="admin", reason="fine"), "an admin allows this: fine"),
        ],
    )  # fmt: skip
    def test_a_verdict_is_a_sentence(self, found: Screening, sentence: str) -> None:
        assert found.sentence == sentence
