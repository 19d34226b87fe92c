"""lm-evaluation-harness against `dkv serve`: its models for chat and for completions, generate_until.

    python benchmarks/clients/lm_eval_client.py CACHE [--version 0.4.13]

The task is a file that this writes: word problems of which the embedded model answers some rightly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from common import Case, Client, main

from dkv.tiny import load_eval

VERSIONS = ("0.4.10", "0.4.12", "0.4.13")
ROUTES = {"local-chat-completions": "/v1/chat/completions", "local-completions": "/v1/completions"}
_COUNT = 4
_TASK = """
task: dkv_words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 64
  do_sample: false
  temperature: 0.0
filter_list:
  - name: number
    filter:
      - function: regex
        regex_pattern: "#### (-?[0-9]+)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


def packages(version: str) -> list[list[str]]:
    """What to install."""
    return [[f"lm-eval[api]=={version}"]]


def cases(client: Client) -> Iterator[Case]:
    """Both models; every question must be answered, and a chat's answers must not all be wrong."""
    tasks = client.folder / "tasks"
    tasks.mkdir()
    data = tasks / "data.jsonl"
    questions = [{"question": one.prompt, "answer": one.answer.split()[-1]} for one in load_eval("words")[:_COUNT]]
    data.write_text("".join(json.dumps(question) + "\n" for question in questions), encoding="utf-8")
    (tasks / "words.yaml").write_text(_TASK.format(data=data), encoding="utf-8")
    for model, route in ROUTES.items():
        yield _case(client, model, route)


def _case(client: Client, model: str, route: str) -> Case:
    arguments = f"model=tiny,base_url={client.server}{route},tokenizer_backend=None,num_concurrent=2,max_retries=1"
    output = client.folder / model
    done = client.run(
        "python", "-m", "lm_eval", "--model", model, "--tasks", "dkv_words", "--include_path", "tasks",
        "--model_args", arguments, "--output_path", str(output), "--log_samples",
        *(["--apply_chat_template"] if "chat" in model else []),
    )  # fmt: skip

    def counted() -> tuple[bool, str]:
        (found,) = output.rglob("results_*.json")
        score = json.loads(found.read_text(encoding="utf-8"))["results"]["dkv_words"]["exact_match,number"]
        (samples,) = output.rglob("samples_*.jsonl")
        answered = len(samples.read_text(encoding="utf-8").splitlines())
        right = answered == _COUNT and ("chat" not in model or score > 0)
        return right, f"{answered} answered, exact match {score:g}"

    return client.judge(model, done, counted)


if __name__ == "__main__":
    main("lm-eval", VERSIONS, packages, cases)
