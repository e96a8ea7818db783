"""Captions of every kind become ids of one shape; vocabularies survive, and are told apart."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dystress_jax.data.tokenizer import _text, load_tokenizer, train_tokenizer
from dystress_jax.files import FileError

CAPTIONS = ["a red cat", "a red dog", "the cat, and the dog", "Él café", "two cats", "two dogs"] * 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cat", "##s", ",", "\u2028", "cafe"]
PAD, UNK, CLS, SEP = range(4)


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(CAPTIONS, vocab_size=60, context=8)


@pytest.fixture
def vocab_txt(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8", newline="")
    return path


def test_a_given_vocabulary_is_used_as_bert_does(vocab_txt):
    """Lower case, no accents, pieces of words, punctuation apart, what is not in it unknown."""
    tokenizer = load_tokenizer(vocab_txt, context=10)
    ids = tokenizer.encode(["Red CATS, Café dog", "redcat cafés"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [
        [CLS, 5, 6, 7, 8, 10, UNK, SEP, PAD, PAD],
        [CLS, UNK, 10, 7, SEP, PAD, PAD, PAD, PAD, PAD],
    ]
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end) == (11, CLS, SEP)


def test_windows_line_ends_and_a_missing_last_one_change_nothing(tmp_path, vocab_txt):
    other = tmp_path / "other.txt"
    other.write_text("\r\n".join(WORDS), encoding="utf-8", newline="")
    assert load_tokenizer(other).fingerprint == load_tokenizer(vocab_txt).fingerprint


STRANGE = {
    "empty": "",
    "white space": " \t\n ",
    "NUL": "red\0cat\0",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd",
    "combining": "e\u0301" * 50,
    "CJK": "\u732b\u3068\u72ac" * 30,
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202e\u0642\u0637\u0629",
    "lone surrogate": "cat \ud83d dog",
    "not a character": "\uffff \ufdd0",
    "one endless word": "x" * 100_000,
    "endless": "cat " * 10_000,
    "special": "[PAD] [SEP] cat [CLS][PAD] <pad> <|endoftext|>",
}


@pytest.mark.parametrize("caption", STRANGE.values(), ids=list(STRANGE))
def test_no_caption_breaks_the_layout(trained, caption):
    check_layout(trained, caption)


@settings(max_examples=100, deadline=None)
@given(caption=st.text(st.characters(), max_size=30))
def test_no_text_whatever_breaks_the_layout(trained, caption):
    check_layout(trained, caption)


def check_layout(tokenizer, caption):
    """Start, words, end, padding: the end is the last id that is not 0."""
    (ids,) = tokenizer.encode([caption]).tolist()
    assert len(ids) == 8
    end = max(i for i in range(8) if ids[i] != PAD)
    assert ids[0] == CLS
    assert ids[end] == SEP
    assert not {PAD, CLS, SEP} & set(ids[1:end])
    assert max(ids) < tokenizer.vocab_size


def test_empty_and_over_long_captions(trained):
    empty, longest, no_less = trained.encode(["", "cat " * 50, "cat " * 6])
    assert empty.tolist() == [CLS, SEP] + [PAD] * 6
    assert longest[-1] == SEP
    np.testing.assert_array_equal(longest, no_less)
    assert trained.encode([]).shape == (0, 8)


def test_control_characters_and_case_do_not_matter(trained):
    a, b, c = trained.encode(["the red cat", "The  RED\tcat", "the r\0ed c\x07at"])
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_many_captions_are_those_of_one_after_another(trained, monkeypatch):
    monkeypatch.setattr("dystress_jax.data.tokenizer._AT_ONCE", 4)
    together = trained.encode(CAPTIONS[:11])
    np.testing.assert_array_equal(together, [trained.encode([c])[0] for c in CAPTIONS[:11]])


def test_training_learns_the_words_that_return_and_keeps_to_the_size(trained):
    assert trained.vocab_size <= 60
    ids = trained.encode(["the red dog"])[0]
    assert ids.tolist()[4:] == [SEP, PAD, PAD, PAD]  # each word is one id
    assert UNK not in ids
    small = train_tokenizer(CAPTIONS, vocab_size=20, context=8)
    assert small.vocab_size <= 20
    assert train_tokenizer([], context=8).vocab_size == 4


def test_rare_characters_are_unknown_words_and_do_not_fill_the_vocabulary():
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 500)))
    tokenizer = train_tokenizer([*CAPTIONS, rare], vocab_size=60, context=8)
    assert tokenizer.vocab_size <= 60
    assert tokenizer.encode([rare[-3:]]).tolist() == [[CLS, UNK, UNK, UNK, SEP, PAD, PAD, PAD]]
    assert UNK not in tokenizer.encode(["the red dog"])


def test_captions_that_return_count_as_often_as_they_are_there():
    strange = [text for text in STRANGE.values() if len(text) < 1000]  # learning takes long
    captions = [*CAPTIONS, *strange, "\u0130stanbul"] * 3 + ["owl ox", "owl ox", "ox"] * 5
    # White space at the end makes other texts of the same words.
    apart = [caption + " " * i for i, caption in enumerate(captions)]
    together, one_by_one, once = (
        train_tokenizer(texts, vocab_size=60, context=8)
        for texts in (captions, apart, dict.fromkeys(captions))
    )
    assert together.pipeline.to_str() == one_by_one.pipeline.to_str()
    assert together.fingerprint == one_by_one.fingerprint != once.fingerprint


@pytest.mark.ci
def test_training_is_deterministic_in_every_process(trained):
    """The library's own training is not: its hash tables begin with another seed each time."""
    code = (
        "from dystress_jax.data.tokenizer import train_tokenizer as train\n"
        f"print(train({CAPTIONS!r}, vocab_size=60, context=8).fingerprint)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == trained.fingerprint


def test_a_saved_vocabulary_comes_back(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    trained.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    loaded = load_tokenizer(path, context=8)
    assert loaded.fingerprint == trained.fingerprint
    captions = [*CAPTIONS, *STRANGE.values()]
    np.testing.assert_array_equal(loaded.encode(captions), trained.encode(captions))


def test_a_vocabulary_that_cannot_be_saved_leaves_nothing(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.mkdir()
    with pytest.raises(FileError, match=r"tokenizer\.json cannot be written: Is a directory"):
        trained.save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_fingerprint_tells_vocabularies_and_rules_apart(trained, vocab_txt, tmp_path):
    prints = {trained.fingerprint, load_tokenizer(vocab_txt).fingerprint}
    prints.add(train_tokenizer(CAPTIONS[:3] * 4, vocab_size=60).fingerprint)
    settings = json.loads(trained.pipeline.to_str())
    settings["normalizer"]["lowercase"] = False
    (tmp_path / "cased.json").write_text(json.dumps(settings))
    prints.add(load_tokenizer(tmp_path / "cased.json").fingerprint)
    assert len(prints) == 4
    assert train_tokenizer(CAPTIONS, vocab_size=60, context=5).fingerprint == trained.fingerprint


def byte_pairs(*special):
    pipeline = tokenizers.Tokenizer(tokenizers.models.BPE())
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=list(special), vocab_size=80, show_progress=False
    )
    pipeline.train_from_iterator(CAPTIONS, trainer)
    pipeline.enable_truncation(3)
    pipeline.enable_padding(length=5, pad_id=7)
    return pipeline


def test_byte_pairs_of_another_make_serve_too(tmp_path):
    """With settings of their own, and their special tokens written in a caption."""
    path = str(tmp_path / "tokenizer.json")
    byte_pairs("<pad>", "<|startoftext|>", "<|endoftext|>").save(path)
    tokenizer = load_tokenizer(path, context=12)
    ids = tokenizer.encode(["a red cat and <pad><|endoftext|> two dogs", ""])
    assert (tokenizer.start, tokenizer.end) == (1, 2)
    assert ids[1].tolist() == [1, 2] + [0] * 10
    end = np.flatnonzero(ids[0])[-1]
    assert ids[0, end] == 2
    assert end > 4
    assert not np.isin(ids[0, 1:end], (0, 1, 2)).any()


@pytest.mark.parametrize(
    ("special", "start", "end"),
    [(("!", "<|startoftext|>", "<|endoftext|>"), 2, 3), (("<s>", "<pad>", "</s>"), 1, 3)],
    ids=["CLIP", "RoBERTa"],
)
def test_ids_make_room_for_padding_where_0_is_a_word(tmp_path, special, start, end):
    """As in the published vocabularies of these two, whose first ids these are."""
    path = tmp_path / "bpe.json"
    pipeline = byte_pairs(*special)
    pipeline.save(str(path))
    tokenizer = load_tokenizer(path, context=12)
    assert (tokenizer.start, tokenizer.end) == (start, end)
    assert tokenizer.vocab_size == pipeline.get_vocab_size() + 1
    ids = tokenizer.encode(["red cat", "", "<pad>"])
    words = [i for i in ids[0] if i][1:-1]
    pipeline.no_truncation()
    pipeline.no_padding()
    assert [i - 1 for i in words] == pipeline.encode("red cat", add_special_tokens=False).ids
    assert ids[1].tolist() == [start, end] + [0] * 10
    if "<pad>" in special:
        assert ids[2].tolist() == ids[1].tolist()
    ends = [pipeline.id_to_token(i - 1) for i in (start, end)]
    written, plain = tokenizer.encode([f"{ends[0]}red{ends[1]} cat", "red cat"])
    assert written.tolist() == plain.tolist()
    assert tokenizer.fingerprint == load_tokenizer(path).fingerprint


def test_texts_without_a_start_begin_with_a_word(tmp_path):
    """As SigLIP's and T5's."""
    path = tmp_path / "tokenizer.json"
    byte_pairs("<pad>", "</s>", "<unk>").save(str(path))
    tokenizer = load_tokenizer(path, context=4)
    assert (tokenizer.start, tokenizer.end, tokenizer.shift) == (None, 1, 0)
    ids = tokenizer.encode(["red </s> cat and two dogs", ""])
    assert ids[0, -1] == 1
    assert not np.isin(ids[0, :-1], (0, 1)).any()
    assert ids[1].tolist() == [1, 0, 0, 0]


def test_a_vocabulary_with_dropout_reads_a_caption_the_same_each_time(tmp_path):
    path = tmp_path / "bpe.json"
    byte_pairs("<pad>", "<s>", "</s>").save(str(path))
    settings = json.loads(path.read_text())
    settings["model"]["dropout"] = 0.5
    path.write_text(json.dumps(settings))
    tokenizer = load_tokenizer(path, context=40)
    assert len({tokenizer.encode(CAPTIONS).tobytes() for _ in range(20)}) == 1


def test_a_byte_order_mark_is_no_word(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8-sig")
    assert load_tokenizer(path).vocab_size == len(WORDS)


def test_captions_that_are_no_text_are_refused(trained):
    with pytest.raises(TypeError, match="caption 1 is a float, not a string"):
        _text(1, float("nan"))
    with pytest.raises(TypeError):
        trained.encode(["cat", None])
    with pytest.raises(TypeError):
        train_tokenizer([None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]"], r"vocab.txt has no line \[SEP\]"),
        ([*WORDS, "cat"], "vocab.txt, line 12: 'cat' is in line 7 too"),
        ([*WORDS, "", "dog"], "vocab.txt, line 12: an empty line is no word"),
        ([""], "vocab.txt, line 1: an empty line"),
    ],
)
def test_a_broken_vocabulary_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(content) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(path)


def test_files_of_another_kind_are_refused(tmp_path):
    binary = tmp_path / "vocab.txt"
    binary.write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"vocab.txt is not UTF-8 text: .*0xff"):
        load_tokenizer(binary)
    other = tmp_path / "config.json"
    other.write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"config.json is no tokenizer.json"):
        load_tokenizer(other)
    no_ends = tmp_path / "ends.json"
    byte_pairs("<pad>").save(str(no_ends))
    with pytest.raises(
        ValueError, match=r"^path: .*ends.json has no start and end tokens; allowed: .*CLS"
    ):
        load_tokenizer(no_ends)
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "nowhere.txt")


def test_sizes_out_of_range_are_refused(vocab_txt):
    with pytest.raises(ValueError, match=r"^context: found 2; allowed: at least 3"):
        load_tokenizer(vocab_txt, context=2)
    with pytest.raises(ValueError, match=r"^vocab_size: found 7; allowed: at least 8"):
        train_tokenizer(CAPTIONS, vocab_size=7)
    assert train_tokenizer(CAPTIONS, vocab_size=8).vocab_size <= 8


def test_an_id_far_beyond_the_vocabulary_is_refused(tmp_path):
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    path = tmp_path / "tokenizer.json"
    for last, fits in ((1033, True), (1034, False), (2_000_000_000, False)):
        model = tokenizers.models.WordPiece({**words, "cat": 4}, unk_token="[UNK]")
        text = tokenizers.Tokenizer(model).to_str()  # which walks through all ids up to the last
        path.write_text(text.replace('"cat":4', f'"cat":{last}'))
        if fits:
            assert load_tokenizer(path).vocab_size == last + 1
        else:
            message = (
                f"^path: .* gives 'cat' the id {last}, but has 5 tokens; allowed: ids below 1034"
            )
            with pytest.raises(ValueError, match=message):
                load_tokenizer(path)


def test_a_vocabulary_that_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match=r"^path: .*vocab.txt is no regular file"):
        load_tokenizer(tmp_path / "vocab.txt")
