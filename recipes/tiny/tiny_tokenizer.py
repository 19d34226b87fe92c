"""Builds the tokenizer: byte-level BPE of 1,792 tokens, digits single, LLaDA's special tokens, a Llama-3 chat template.

`python -m recipes.tiny.tiny_tokenizer FOLDER` writes it; `--extend OLD --tasks NAME ...` adds to the one in OLD what
those tasks need. Built from generated examples only, so equal generators give the same file; the shipped one is older
than some wordings of today's generators and was extended once, and a model belongs to its tokenizer."""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.tiny.tasks import ALL

VOCABULARY = 1792
MASK, END, START = "<|mdm_mask|>", "<|endoftext|>", "<|startoftext|>"
HEADER, END_HEADER, TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIAL = (START, END, HEADER, END_HEADER, TURN, MASK)
# Digits stand alone, blanks never join digits, line feeds join each other: a number is spelt one way everywhere.
PIECES = r"\p{N}|\n+| ?\p{L}+| ?[^\s\p{L}\p{N}]+| +(?!\S)| +|\s"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def as_chat(messages: Sequence[tuple[str, str]]) -> str:
    """The (role, text) messages through the chat template, up to where the response begins."""
    said = "".join(f"{HEADER}{role}{END_HEADER}\n\n{text}{TURN}" for role, text in messages)
    return f"{START}{said}{HEADER}assistant{END_HEADER}\n\n"


def corpus(seed: int, count: int, names: Sequence[str] = tuple(ALL)) -> Iterator[str]:
    """Prompts and answers of some tasks, `count` examples each, and the two roles."""
    rng = random.Random(seed)
    for _ in range(count):
        for name in names:
            example = ALL[name].training(rng)
            yield example.prompt[:300]  # long prompts repeat themselves
            yield example.answer
        yield "user\n\nassistant\n\nsystem"


def build(seed: int = 0, count: int = 3000) -> Tokenizer:
    """A tokenizer trained on the corpus of `seed`; special tokens take the last ids."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, count), trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def extend(old: Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """`old` with merges added until it has `size` tokens, learned as BPE learns them from what `old` makes of `texts`.

    The new merges rank behind all old ones, so texts that the old merges already join are spelt as before.
    """
    state = json.loads(old.to_str())
    names = [token["content"] for token in state["added_tokens"]]
    bare = old.get_vocab_size() - len(names)
    words = Counter(piece for text in texts for piece in _pieces(old, text))
    spelt = {word: list(old.encode(word, add_special_tokens=False).tokens) for word in words}
    vocabulary = {token: i for token, i in state["model"]["vocab"].items() if i < bare}
    while len(vocabulary) < size - len(names):
        counts: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(spelt[word]):
                counts[pair] += count
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        spelt = {word: _joined(tokens, best) for word, tokens in spelt.items()}
        vocabulary.setdefault("".join(best), len(vocabulary))
        state["model"]["merges"].append(list(best))
    state["model"]["vocab"], state["added_tokens"] = vocabulary, []
    grown = Tokenizer.from_str(json.dumps(state))
    grown.add_special_tokens(names)
    return grown


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The parts of a text that are never joined."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in split]


def _joined(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """Tokens with each occurrence of the pair as one."""
    out: list[str] = []
    for token in tokens:
        if out and (out[-1], token) == pair:
            out[-1] += token
        else:
            out.append(token)
    return out


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a model directory."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token; a tokenizer without it is refused."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no token {token}")
    return int(number)


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that transformers' AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": START, "eos_token": END, "pad_token": END}
    settings = names | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [HEADER, END_HEADER, TURN, MASK],
        "chat_template": CHAT_TEMPLATE,
    }
    for name, content in (("tokenizer_config.json", settings), ("special_tokens_map.json", names)):
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Command line; never onto the shipped files: the weights know only their own tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extend", type=Path, default=None, help="directory of the tokenizer to begin with")
    parser.add_argument("--tasks", nargs="+", default=list(ALL), choices=list(ALL))
    given = parser.parse_args()
    if given.extend is None:
        save(build(), given.folder)
    else:
        save(extend(load(given.extend), corpus(0, 3000, given.tasks), VOCABULARY), given.folder)


if __name__ == "__main__":
    main()
