"""Which videos each protocol trains on, selects on and scores, on tables small enough to read."""

import dataclasses
import hashlib

import pyarrow as pa
import pytest

from pipelines import datasets
from pipelines.common.tables import FAKE, REAL, SPLITS, VIDEOS, to_table
from pipelines.datasets import ffpp
from pipelines.datasets.sample.corpus import make
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.protocol import Part, Protocol, ProtocolError

METHODS = ("Deepfakes", "Face2Face", "FaceSwap")
SPLIT_OF_ID = {"000": "train", "001": "train", "002": "val", "003": "val", "004": "test", "005": "test"}


def row(dataset: str, method: str, stem: str, split: str, sources: list[str], codec: str = "c23") -> dict:
    return {
        "dataset": dataset,
        "video_id": f"{dataset}/{method}/{codec}/{stem}",
        "label": int(method != "real"),
        "method": method,
        "codec": codec,
        "split": split,
        "root": dataset,
        "uri": f"{method}/{stem}.mp4",
        "mask_uri": None,
        "real_id": None,
        "real_uri": None,
        "source_ids": sources,
        "face_rule": "largest",
    }


def table(rows: list[dict]) -> pa.Table:
    return to_table(rows, VIDEOS)


def home(codecs: tuple[str, ...] = ("c23",)) -> list[dict]:
    """Six ids, two in each split; each real once, one fake per method and pair of ids."""
    rows = []
    for codec in codecs:
        for id_, split in SPLIT_OF_ID.items():
            rows.append(row("home", "real", id_, split, [f"home/{id_}"], codec))
        for target, source in (("000", "001"), ("002", "003"), ("004", "005")):
            for method in METHODS:
                ids = [f"home/{target}", f"home/{source}"]
                rows.append(row("home", method, f"{target}_{source}", SPLIT_OF_ID[target], ids, codec))
    return rows


def away() -> list[dict]:
    """Another dataset, in one compression; `real/0` and `swap/0` are made from a training video of `home`."""
    rows = []
    for stem, source in (("0", "home/000"), ("1", "away/1"), ("2", "away/2")):
        rows.append(row("away", "real", stem, "test", [source], "unknown"))
        rows.append(row("away", "swap", stem, "test", [source, f"away/actor{stem}"], "unknown"))
    rows.append(row("away", "real", "9", "train", ["away/9"], "unknown"))
    return rows


TABLES = {"home": table(home()), "away": table(away())}


def experiment(**changes) -> Experiment:
    return Experiment(**{"model": "delocate", "train_on": "home", "test_on": ("away",), **changes})


def build(tables=TABLES, **changes) -> Protocol:
    return protocol.build(experiment(**changes), tables)


def stems(part: Part) -> set[str]:
    return {f"{r['method']}/{str(r['video_id']).rsplit('/', 1)[1]}" for r in part.rows}


REAL_TEST = {"real/004", "real/005"}


# ---------------------------------------------------------------------------------------- the five
def test_cross_dataset_trains_on_all_and_scores_the_test_part_of_each_named_dataset():
    built = build(test_on=("away", "home"))
    assert stems(built.train) == {"real/000", "real/001", *(f"{m}/000_001" for m in METHODS)}
    assert stems(built.select) == {"real/002", "real/003", *(f"{m}/002_003" for m in METHODS)}
    assert [part.name for part in built.test] == ["away", "home"]
    assert stems(built.test[0]) == {"real/1", "real/2", "swap/1", "swap/2"}
    assert stems(built.test[1]) == REAL_TEST | {f"{m}/004_005" for m in METHODS}


def test_cross_dataset_trains_on_the_manipulations_named_and_scores_all_of_the_others():
    built = build(manipulations=("FaceSwap",))
    assert stems(built.train) == {"real/000", "real/001", "FaceSwap/000_001"}
    assert stems(built.select) == {"real/002", "real/003", "FaceSwap/002_003"}
    assert stems(built.test[0]) == {"real/1", "real/2", "swap/1", "swap/2"}


def test_in_dataset_scores_what_was_trained_on():
    (part,) = build(protocol="in_dataset", manipulations=("Deepfakes", "FaceSwap")).test
    assert stems(part) == REAL_TEST | {"Deepfakes/004_005", "FaceSwap/004_005"}
    assert (part.name, part.split) == ("home", "test")


def test_cross_manipulation_trains_on_one_and_scores_each_by_itself():
    built = build(protocol="cross_manipulation", manipulations=("Face2Face",))
    assert stems(built.train) == {"real/000", "real/001", "Face2Face/000_001"}
    assert {part.name: stems(part) for part in built.test} == {
        f"home/{m}": REAL_TEST | {f"{m}/004_005"} for m in METHODS
    }


def test_leave_one_out_scores_the_one_that_was_not_trained_on():
    built = build(protocol="leave_one_out", manipulations=("Deepfakes", "FaceSwap"))
    (part,) = built.test
    assert (part.name, stems(part)) == ("home/Face2Face", REAL_TEST | {"Face2Face/004_005"})
    assert not any("Face2Face" in stem for stem in stems(built.train) | stems(built.select))


def test_per_manipulation_scores_the_one_it_trained_on():
    (part,) = build(protocol="per_manipulation", manipulations=("Deepfakes",)).test
    assert (part.name, stems(part)) == ("home/Deepfakes", REAL_TEST | {"Deepfakes/004_005"})


def test_every_named_protocol_selects_on_val_of_the_training_dataset():
    given = {"leave_one_out": METHODS[:2], "cross_manipulation": METHODS[:1], "per_manipulation": METHODS[:1]}
    assert set(protocol.PROTOCOLS) == given.keys() | {"cross_dataset", "in_dataset"}
    for name in protocol.PROTOCOLS:
        built = build(protocol=name, manipulations=given.get(name, ()))
        assert (built.train.dataset, built.train.split) == ("home", "train")
        assert (built.select.dataset, built.select.split) == ("home", "val")
        assert {part.split for part in built.test} == {"test"}


def test_counts_of_a_part():
    train = build().train
    assert (train.count(REAL), train.count(FAKE)) == (2, 3)
    assert train.video_ids[0] == "home/real/c23/000"


# ------------------------------------------------------------------- what papers mean by a dataset
def with_faceshifter() -> dict[str, pa.Table]:
    """FaceForensics++ with its fifth manipulation: one fake of each in each split, two ids in each split."""
    rows = []
    for id_, split in SPLIT_OF_ID.items():
        rows.append(row("ffpp", "real", id_, split, [f"ffpp/{id_}"]))
    for target, source in (("000", "001"), ("002", "003"), ("004", "005")):
        for method in ffpp.METHODS:
            ids = [f"ffpp/{target}", f"ffpp/{source}"]
            rows.append(row("ffpp", method, f"{target}_{source}", SPLIT_OF_ID[target], ids))
    return {"ffpp": table(rows)}


def fakes(part: Part) -> list[str]:
    return sorted({r["method"] for r in part.rows if r["label"] == FAKE})


FOUR = ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
FIVE = sorted([*FOUR, "FaceShifter"])


def build_ffpp(**changes) -> Protocol:
    return build(with_faceshifter(), train_on="ffpp", **changes)


def test_ffpp_is_the_papers_four_manipulations_though_faceshifter_is_on_disk():
    built = build_ffpp(test_on=("ffpp", "ffpp/FaceShifter", "ffpp/all"))
    assert fakes(built.train) == fakes(built.select) == FOUR
    assert {part.name: fakes(part) for part in built.test} == {
        "ffpp": FOUR,
        "ffpp/FaceShifter": ["FaceShifter"],
        "ffpp/all": FIVE,
    }
    assert [part.count(REAL) for part in built.test] == [2, 2, 2]  # against all real test videos
    assert [part.name for part in build_ffpp(protocol="cross_manipulation", manipulations=("FaceSwap",)).test] == [
        f"ffpp/{name}" for name in FOUR
    ]
    (part,) = build_ffpp(protocol="in_dataset").test
    assert fakes(part) == FOUR


def test_who_wants_five_manipulations_names_them():
    built = build_ffpp(test_on=("ffpp",), manipulations=tuple(FIVE))
    assert fakes(built.train) == fakes(built.select) == fakes(built.test[0]) == FIVE


def test_one_manipulation_is_left_out_though_faceshifter_is_on_disk():
    (part,) = build_ffpp(protocol="leave_one_out", manipulations=tuple(FOUR[1:])).test
    assert (part.name, fakes(part)) == ("ffpp/Deepfakes", ["Deepfakes"])


def test_a_test_set_that_the_dataset_lacks_is_refused():
    with pytest.raises(ProtocolError, match=r"ffpp has no manipulation FaceShift; found: Deepfakes, Face2Face, FaceSh"):
        build_ffpp(test_on=("ffpp/FaceShift",))


@pytest.mark.parametrize(("name", "meant"), [("celeb_df", "Celeb-synthesis"), ("deeper_forensics", "end_to_end")])
def test_other_datasets_that_grew_are_what_papers_mean_too(name, meant):
    rows = [row(name, method, method, "test", [f"{name}/{method}"], "unknown") for method in ("real", meant, "other")]
    (part,) = build({"home": TABLES["home"], name: table(rows)}, test_on=(name,)).test
    assert fakes(part) == [meant]


def test_a_test_part_by_itself_is_that_of_a_protocol_with_nothing_left_out():
    for name, built in (("ffpp", build_ffpp(test_on=("ffpp",))), ("ffpp/all", build_ffpp(test_on=("ffpp/all",)))):
        assert (protocol.test_part(name, with_faceshifter(), "c23"),) == built.test
    part, (of_protocol,) = protocol.test_part("away", TABLES, "c23"), build().test
    assert set(part.video_ids) == {*of_protocol.video_ids, *of_protocol.excluded}
    assert part.excluded == ()
    with pytest.raises(ProtocolError, match="has no manipulation swop; found: swap"):
        protocol.test_part("away/swop", TABLES, "c23")
    with pytest.raises(ProtocolError, match="home has no videos in c40"):
        protocol.test_part("home", TABLES, "c40")


# ---------------------------------------------------------------------------- parts that can be cited
def test_a_part_is_cited_by_its_rules_and_its_videos():
    """The digest is that of `sort -u | sha256sum` over the ids, without the last line break."""
    part = Part(name="d/M", dataset="d", split="test", codec="c23", rows=tuple({"video_id": i} for i in ("b", "a")))
    assert part.ids_digest == hashlib.sha256(b"a\nb").hexdigest()[:16] == "7e18f737311b2dc3"
    assert part.citation == f"d/M test c23 v{protocol.VERSION} 7e18f737311b2dc3"
    turned = dataclasses.replace(part, rows=part.rows[::-1])
    assert turned.ids_digest == part.ids_digest
    assert dataclasses.replace(part, rows=part.rows[:1]).ids_digest != part.ids_digest


def test_parts_of_other_videos_have_other_names():
    """Also those that differ in what is left out, or in manipulations that a copy has besides."""
    digests = [
        part.ids_digest
        for built in (
            build(),
            build({"home": TABLES["home"], "away": table(away()[:3] + away()[4:])}),
            build(protocol="in_dataset"),
        )
        for part in (*built.test, built.select)
    ]
    assert len(set(digests)) == 4  # the same val part three times
    (four,), (five,) = (build_ffpp(test_on=(name,)).test for name in ("ffpp", "ffpp/all"))
    assert four.ids_digest != five.ids_digest
    without = {"ffpp": table([r for r in with_faceshifter()["ffpp"].to_pylist() if r["method"] != "FaceShifter"])}
    assert build(without, train_on="ffpp", test_on=("ffpp",)).test[0].ids_digest == four.ids_digest


# --------------------------------------------------------------------------------------- refusals
def test_unknown_protocol_lists_those_there_are():
    with pytest.raises(ValueError, match="cross_dataset, in_dataset"):
        build(protocol="cross_datasets")


@pytest.mark.parametrize("name", ["cross_manipulation", "per_manipulation"])
@pytest.mark.parametrize("manipulations", [(), METHODS[:2]])
def test_a_protocol_of_one_manipulation_refuses_more(name, manipulations):
    with pytest.raises(ProtocolError, match="exactly one manipulation"):
        build(protocol=name, manipulations=manipulations)


@pytest.mark.parametrize("manipulations", [(), METHODS, METHODS[:1]])
def test_leave_one_out_refuses_to_leave_out_none_or_two(manipulations):
    with pytest.raises(ProtocolError, match="leaves out exactly one"):
        build(protocol="leave_one_out", manipulations=manipulations)


def test_unknown_manipulation_lists_those_there_are():
    with pytest.raises(ProtocolError, match=r"no manipulation Deepfake; found: Deepfakes, Face2Face, FaceSwap"):
        build(manipulations=("Deepfake",))


def test_missing_codec_lists_those_there_are():
    with pytest.raises(ProtocolError, match="home has no videos in c40; found: c23, raw"):
        build({"home": table(home(("raw", "c23"))), "away": TABLES["away"]}, codec="c40")


@pytest.mark.parametrize("codec", ["raw", "c23"])
def test_codecs_do_not_mix(codec):
    built = build({"home": table(home(("raw", "c23"))), "away": TABLES["away"]}, codec=codec)
    assert {r["codec"] for part in (built.train, built.select) for r in part.rows} == {codec}
    assert len(built.train.rows) == 5  # and not twice


def test_a_stage_of_real_faces_may_have_a_compression_of_its_own():
    tables = {"home": table(home(("c23", "c40"))), "away": TABLES["away"]}
    settings = {"model": "lre", "codec": "c40", "model_args": {"reconstruct.codec": "c23"}}
    built = build(tables, **settings)
    assert {r["codec"] for part in (built.train, built.select) for r in part.rows} == {"c40"}
    ((stage, (train, select)),) = built.own.items()
    assert stage == "reconstruct"
    assert train.video_ids == ("home/real/c23/000", "home/real/c23/001")
    assert select.video_ids == ("home/real/c23/002", "home/real/c23/003")
    assert build(tables, **settings | {"codec": "c23"}).own == {}  # no other one
    with pytest.raises(ProtocolError, match="home has no videos in c23; found: c40"):
        build({"home": table(home(("c40",))), "away": TABLES["away"]}, **settings)
    moved = [r | {"split": "test"} if r["video_id"] == "home/real/c23/000" else r for r in home(("c23", "c40"))]
    moved += [row("home", "real", "004", "train", ["home/004"], "c23")]  # a test source among its training videos
    with pytest.raises(ProtocolError, match="home/004"):
        build({"home": table(moved), "away": TABLES["away"]}, **settings | {"protocol": "in_dataset"})


def test_dataset_of_one_compression_is_scored_whatever_the_training_was_in():
    built = build({"home": table(home(("raw",))), "away": TABLES["away"]}, codec="raw")
    assert {r["codec"] for r in built.test[0].rows} == {"unknown"}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("label", "count"), [(0, "0 real and 3 fake"), (1, "2 real and 0 fake")])
def test_a_part_of_one_class_is_refused(split, label, count):
    rows = [r for r in home() if (r["split"], r["label"]) != (split, label)]
    with pytest.raises(ProtocolError, match=f"{split} part of home .*{count}"):
        build({"home": table(rows), "away": TABLES["away"]}, protocol="in_dataset")


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_source_on_two_sides_of_the_training_dataset_is_refused(other):
    rows = [*home(), row("home", "Deepfakes", "000_999", other, ["home/000", "home/999"])]
    with pytest.raises(ProtocolError, match=r"share 1 source identities, e\.g\. home/000"):
        build({"home": table(rows), "away": TABLES["away"]}, protocol="in_dataset")


def test_selection_and_scoring_on_one_source_is_refused():
    rows = [*home(), row("home", "Deepfakes", "002_999", "test", ["home/002", "home/999"])]
    with pytest.raises(ProtocolError, match="home/002"):
        build({"home": table(rows), "away": TABLES["away"]}, protocol="in_dataset")


@pytest.mark.parametrize(
    "change", [{"split": "test"}, {"split": "train"}, {"dataset": "away"}], ids=["test", "train", "other dataset"]
)
def test_selection_is_refused_elsewhere_than_on_val_of_the_training_dataset(change):
    built = build()
    with pytest.raises(ProtocolError, match="chosen on the val part of home"):
        dataclasses.replace(built, select=dataclasses.replace(built.select, **change))


@pytest.mark.parametrize("side", ["train", "select"])
def test_scoring_what_was_trained_or_selected_on_is_refused(side):
    built = build()
    with pytest.raises(ProtocolError):
        dataclasses.replace(built, test=(getattr(built, side),))


# ------------------------------------------------------------------------------- shared with others
def test_videos_of_another_dataset_made_from_training_videos_are_left_out_and_listed():
    (part,) = build().test
    assert set(part.excluded) == {"away/real/unknown/0", "away/swap/unknown/0"}
    assert not set(part.excluded) & set(part.video_ids)
    assert (part.count(REAL), part.count(FAKE)) == (2, 2)


def test_a_source_used_for_selection_is_left_out_too():
    rows = [*away(), row("away", "swap", "3", "test", ["away/actor3", "home/002"], "unknown")]
    (part,) = build({"home": TABLES["home"], "away": table(rows)}).test
    assert "away/swap/unknown/3" in part.excluded


def test_a_source_that_only_the_test_part_of_home_has_is_scored():
    rows = [*away(), row("away", "swap", "3", "test", ["home/004"], "unknown")]
    (part,) = build({"home": TABLES["home"], "away": table(rows)}).test
    assert "away/swap/unknown/3" in part.video_ids


def test_a_dataset_of_which_sharing_leaves_one_class_is_refused_with_the_reason():
    rows = [r for r in away() if r["video_id"] not in ("away/real/unknown/1", "away/real/unknown/2")]
    with pytest.raises(ProtocolError, match="0 real and 2 fake videos; 2 more share a source with training"):
        build({"home": TABLES["home"], "away": table(rows)})


# ------------------------------------------------------------------- datasets that are only tested on
TESTED = ("dfd", "dfdcp", "ffiw", "wild_deepfake")


@pytest.fixture(scope="module")
def corpus(tiny_roots, tmp_path_factory) -> dict[str, pa.Table]:
    """VIDEOS of FaceForensics++ and of the datasets without a part to select on, DFD also without one to train on."""
    folder = tmp_path_factory.mktemp("tested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        roots = dict(tiny_roots) | make(folder, size="tiny", names=TESTED)
        return {name: datasets.load(name, roots) for name in ("ffpp", *TESTED)}


@pytest.mark.parametrize("name", TESTED)
def test_a_dataset_without_a_part_to_select_on_is_scored_whole_but_not_trained_on(corpus, name):
    built = build(corpus, train_on="ffpp", test_on=(name,))
    (part,) = built.test
    rows = [r for r in corpus[name].to_pylist() if r["split"] == "test"]
    assert (part.name, part.split, part.excluded) == (name, "test", ())
    assert set(part.video_ids) == {r["video_id"] for r in rows}
    assert min(part.count(REAL), part.count(FAKE)) > 0
    assert part.every_face == (set(part.video_ids) if name == "ffiw" else set())
    with pytest.raises(ProtocolError, match=rf"the (train|val) part of {name}( \(c23\))? has 0 real and 0 fake"):
        build(corpus, train_on=name, test_on=("ffpp",))


def test_a_list_without_a_column_for_the_part_is_told_so():
    rows = [dict(r, split="test") for r in away()]
    with pytest.raises(ProtocolError, match=r"part of away has 0 real.*All of its 7 .*without one all are test"):
        build({"away": table(rows)}, train_on="away", test_on=("away",))


def test_people_of_two_datasets_never_share_a_name(corpus):
    """DFD has actors 01 to 28, FaceForensics++ clips 000 to 999: numbers that must not pass for each other."""
    sources = {name: {s for r in table.to_pylist() for s in r["source_ids"]} for name, table in corpus.items()}
    assert all(source.startswith(f"{name}/") for name, own in sources.items() for source in own)
