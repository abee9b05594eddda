"""Results as programs write them: what is malformed is refused by a sentence, what is kept can be computed with."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.errors import BadInputError
from fumehood.services import final_info
from fumehood.services.final_info import FinalInfo, Series

NUMBERS = st.floats(min_value=-1e100, max_value=1e100) | st.integers(-(10**9), 10**9)
NAMES = st.text(min_size=1, max_size=12)
INFOS = st.dictionaries(
    NAMES,
    st.dictionaries(NAMES, st.lists(NUMBERS, min_size=1, max_size=6), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def written(shape: Any) -> bytes:
    return json.dumps(shape).encode()


def read(shape: Any, source: str = "self") -> FinalInfo:
    return final_info.read(written(shape), source)


def info(source: str = "self", **datasets: dict[str, list[float]]) -> FinalInfo:
    return FinalInfo(
        datasets={
            name: {metric: Series(values=tuple(values), source=source) for metric, values in metrics.items()}
            for name, metrics in datasets.items()
        }
    )


class TestRead:
    def test_each_seed_is_kept(self) -> None:
        found = read({"circle": {"means": {"kl": 9}, "stderrs": {"kl": 1}, "final_info_dict": {"kl": [1, 2.5]}}})
        assert found.datasets["circle"]["kl"] == Series(values=(1.0, 2.5), source="self")

    def test_a_mean_alone_is_one_value(self) -> None:
        assert read({"a": {"means": {"kl": 2}}}).datasets["a"]["kl"].values == (2.0,)

    def test_a_bare_mean_is_called_value(self) -> None:
        assert read({"infection_rate": {"means": 0.5}}).datasets["infection_rate"]["value"].values == (0.5,)

    def test_nested_means_are_called_by_the_names_on_the_way_to_them(self) -> None:
        means = {"aspirin": {"energy": 1.5, "curve": [1, 2]}, "benzene": {"far": {"energy": 0.5}}}
        of_seeds = {"aspirin": {"energy": [1, 2]}}
        found = read({"mace": {"means": means, "final_info_dict": of_seeds}}).datasets["mace"]
        assert {name: series.values for name, series in found.items()} == {
            "aspirin.energy": (1.0, 2.0),
            "benzene.far.energy": (0.5,),
        }

    @pytest.mark.parametrize("junk", [None, "fast", True])
    def test_a_metric_that_is_no_number_is_refused(self, junk: Any) -> None:
        with pytest.raises(BadInputError, match="note of a is not a number"):
            read({"a": {"means": {"kl": 2, "note": junk}}})

    @pytest.mark.parametrize("junk", [{"x": 1}, [], [1]])
    def test_what_lies_beside_the_metrics_is_left_out(self, junk: Any) -> None:
        found = read({"a": {"means": {"kl": 2, "note": junk}}})
        assert set(found.datasets["a"]) == {"kl"}

    @pytest.mark.parametrize("junk", [[], {}, "x", None, 5])
    def test_without_usable_seeds_the_mean_stands(self, junk: Any) -> None:
        assert read({"a": {"means": {"kl": 2}, "final_info_dict": {"kl": junk}}}).datasets["a"]["kl"].values == (2.0,)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "not JSON"),
            (b"\xff", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b'{"a": ' * 100_000, "not JSON"),
            (b"1" * 5000, "not JSON"),
            (b"[]", "at least one data set"),
            (b"{}", "at least one data set"),
            (b"3", "at least one data set"),
            (written({"a": 1}), "results of a have no means"),
            (written({"a": {"kl": 1}}), "results of a have no means"),
            (written({"a": {"means": []}}), "means of a must be an object"),
            (written({"a": {"means": "x"}}), "means of a must be an object"),
            (written({"a": {"means": {}}}), "results of a hold no number"),
            (written({"a": {"means": True}}), "value of a is not a number"),
            (written({"a": {"means": {"kl": True}}}), "kl of a is not a number"),
            (written({"a": {"means": {"kl": math.nan}}}), "kl of a is not finite"),
            (written({"a": {"means": {"kl": math.inf}}}), "kl of a is not finite"),
            (b'{"a": {"means": {"kl": 1e999}}}', "kl of a is not finite"),
            (written({"a": {"means": {"kl": 1}, "final_info_dict": {"kl": [1, math.nan]}}}), "kl of a is not finite"),
            (written({"a": {"means": {"kl": 1e200}}}), "kl of a is larger than 1e"),
            (written({"a": {"means": {"kl": -(10**400)}}}), "kl of a is larger than 1e"),
            (written({"a": {"means": {"b": {}}}}), "results of a hold no number"),
            (written({"a": {"means": {"b": {"kl": True}}}}), "b.kl of a is not a number"),
            (written({"a": {"means": {"b": {str(one): 1 for one in range(201)}}}}), "at most 200 metrics"),
            (written({str(one): {"means": 1} for one in range(201)}), "more than 200 data sets"),
            (written({"a": {"means": {str(one): 1 for one in range(201)}}}), "at most 200 metrics"),
        ],
    )
    def test_what_cannot_be_used_is_refused_and_named(self, data: bytes, words: str) -> None:
        with pytest.raises(BadInputError, match=words):
            final_info.read(data, "self")

    def test_a_huge_file_is_not_even_parsed(self) -> None:
        with pytest.raises(BadInputError, match="larger than 16 MiB"):
            final_info.read(b" " * (final_info.MAX_BYTES + 1), "self")

    def test_two_hundred_data_sets_are_fine(self) -> None:
        assert len(read({str(one): {"means": 1} for one in range(200)}).datasets) == 200

    @given(data=st.binary(max_size=80) | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["means", "final_info_dict", "a"]), inner, max_size=3),
        max_leaves=12,
    ).map(written))  # fmt: skip
    def test_whatever_a_program_writes_is_read_or_refused(self, data: bytes) -> None:
        try:
            found = final_info.read(data, "self")
        except BadInputError:
            return
        assert final_info.read(found.to_json(), "self") == found


class TestNumbers:
    @given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
    def test_the_standard_error_is_sd_over_root_n(self, values: list[float]) -> None:
        series = Series(values=tuple(values), source="self")
        assert series.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert series.sd == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)
        assert series.stderr is not None
        assert series.stderr == pytest.approx(series.sd / math.sqrt(len(values)))

    def test_one_seed_has_no_spread(self) -> None:
        series = Series(values=(3.0,), source="self")
        assert (series.mean, series.sd, series.stderr) == (3.0, 0.0, None)

    @given(shape=INFOS)
    def test_all_that_is_read_can_be_written_and_read_again(self, shape: dict[str, dict[str, list[float]]]) -> None:
        given_info = read({name: {"means": dict.fromkeys(ms, 0), "final_info_dict": ms} for name, ms in shape.items()})
        told = json.loads(given_info.to_json())
        assert final_info.read(given_info.to_json(), "self") == given_info
        for dataset, metrics in given_info.datasets.items():
            assert set(told[dataset]) == {"means", "stderrs", "final_info_dict"}
            for name, series in metrics.items():
                assert told[dataset]["means"][name] == series.mean
                assert (name in told[dataset]["stderrs"]) == (len(series.values) > 1)


class TestMerge:
    def test_the_evaluators_number_takes_the_place_of_the_experiments(self) -> None:
        own = info(circle={"kl": [0.0], "loss": [3.0]})
        merged = final_info.merge(own, info("evaluator", circle={"kl": [7.0]}))
        assert merged.datasets["circle"]["kl"] == Series(values=(7.0,), source="evaluator")
        assert merged.datasets["circle"]["loss"] == Series(values=(3.0,), source="self")

    def test_data_sets_that_only_the_experiment_speaks_of_are_dropped(self) -> None:
        own = info(circle={"loss": [3.0]}, invented={"kl": [0.0]})
        merged = final_info.merge(own, info("evaluator", circle={"kl": [7.0]}, dino={"kl": [8.0]}))
        assert set(merged.datasets) == {"circle", "dino"}

    def test_without_an_evaluator_the_experiments_own_stand(self) -> None:
        own = info(circle={"kl": [1.0]})
        assert final_info.merge(own, None) == own

    @given(own=INFOS, judged=INFOS)
    def test_nothing_of_the_evaluators_is_lost_or_changed(self, own: Any, judged: Any) -> None:
        evaluated = info("evaluator", **judged)
        merged = final_info.merge(info(**own), evaluated)
        assert set(merged.datasets) == set(judged)
        for dataset, metrics in evaluated.datasets.items():
            assert {**merged.datasets[dataset], **metrics} == merged.datasets[dataset]
            rest = {name: one for name, one in merged.datasets[dataset].items() if name not in metrics}
            assert all(one.source == "self" for one in rest.values())


class TestOverall:
    def test_it_is_the_mean_over_data_sets_seed_by_seed(self) -> None:
        found = final_info.overall(info(a={"kl": [1.0, 2.0]}, b={"kl": [3.0, 6.0]}), "kl")
        assert found is not None
        assert found.values == (2.0, 4.0)

    @pytest.mark.parametrize(
        "given_info",
        [info(a={"x": [1.0]}), info(a={"kl": [1.0]}, b={"x": [1.0]}), info(a={"kl": [1.0]}, b={"kl": [1.0, 2.0]})],
    )
    def test_it_is_nothing_unless_every_data_set_has_as_many_seeds(self, given_info: FinalInfo) -> None:
        assert final_info.overall(given_info, "kl") is None
