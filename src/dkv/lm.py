"""A loaded model and the ways to generate with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from rich.console import Console
from rich.progress import Progress

from dkv.accel.backend import Backend, plain_backend
from dkv.accel.compile_report import CompileReport
from dkv.caches import make_cache
from dkv.checkpoints.safetensors_writer import parse_size
from dkv.checkpoints.tuned_settings import AUTO, find_tuned
from dkv.core.dtypes import named_dtype
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.policy import CachePolicy, Decoder
from dkv.core.values import ArrayLike, as_count, checked_keywords, checked_options, plain, plain_fields, shown
from dkv.decoders import make_decoder
from dkv.engine import Engine, Request
from dkv.engine.infill import Infilling, Part, canvas_ids, infilled, region_of
from dkv.errors import CheckpointError, SettingError
from dkv.models import Transformer
from dkv.models.saving import save
from dkv.outputs import Frame, Generation
from dkv.params import InfillOptions, Options, ResolvedParams, SamplingParams, drawn_seed, seed_of
from dkv.tokenizer import Tokenizer
from dkv.tokenizer.tokenizer import Prompt, encoded, listed

__all__ = ["DiffusionLM"]


class DiffusionLM:
    """A loaded model: `model` (the network), `tokenizer` (or None), `directory` (where both came from, or None),
    `audit` (whether every read is checked), and the ways to generate."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        name: str = "",
        audit: bool = False,
        directory: Path | None = None,
        draw: Callable[[], int] = drawn_seed,
        backend: Backend | None = None,
    ) -> None:
        self.backend = backend or plain_backend(model)
        self.model, self.tokenizer, self.name, self.directory = model, tokenizer, name, directory
        self.audit, self._draw = audit, draw

    @property
    def bucket(self) -> Bucket:
        """How its row counts are rounded up."""
        return self.backend.bucket

    @property
    def network(self) -> Model:
        """The model without what records its forwards."""
        return self.backend.network

    @property
    def compile_report(self) -> dict[str, CompileReport]:
        """What preparing faster forwards took so far, by the argument of `load` that asked for them."""
        return self.backend.reports

    @property
    def quantize(self) -> str | None:
        """As what the weights are kept ("int8", "int4"), None = plain."""
        return self.network.quantize if isinstance(self.network, Transformer) else None

    @property
    def compiled(self) -> bool:
        """Whether `load` was asked to compile."""
        return self.backend.compiled

    def release_memory(self) -> None:
        """Give free memory of this process back to the system, where the C library can."""
        self.backend.release_memory()

    @checked_options(Options)
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        batch_size: int = 32,
        chat: bool | None = None,
        parse_special: bool = False,
        trace: bool = False,
        progress: bool = False,
        **options: Unpack[Options],
    ) -> list[Generation]:
        """Generate a response for each prompt; results come in the order of the prompts.

        prompts: a text, a list of token ids, a conversation (a list of {"role": ..., "content": ...} messages, the
        user's last), or a list of those. A text goes through the chat template if there is one (chat=False: as it is),
        a conversation always. params, options: how to generate, by the fields of `dkv.SamplingParams`, such as
        gen_length=64; an option wins over the same field of params. A result's own `seed`, for its prompt alone, makes
        it again. batch_size: prompts per batch; in float32 it never changes a sequence's tokens. parse_special: a text
        is rendered already: no chat template, and the strings of control tokens in it are those tokens
        (docs/prompts.md). trace: keep what each step committed. progress: show a bar on standard error.

        Raises SettingError, SpecError and PromptError, each one line naming the argument, its value and the fix; and
        RequestError where a policy or a decoder fails on the way, or logits are not finite.
        """
        each = listed(prompts)
        settings = self._resolve(_merged(params, options), len(each))
        ids_of = [self._encode(prompt, chat, settings.gen_length, parse_special) for prompt in each]
        seeds = settings.seeds(len(ids_of))
        engine, results = (
            Engine(self, active=as_count("batch_size", batch_size), waiting=len(ids_of)),
            dict[int, Generation](),
        )
        numbers = [
            engine.add(Request(tuple(ids), settings, seed, number, trace, deltas=False))
            for number, (ids, seed) in enumerate(zip(ids_of, seeds, strict=True))
        ]
        with _progress(len(ids_of), progress) as tell:
            while len(results) < len(numbers):
                for update in engine.step():
                    if update.error is not None:
                        raise update.error
                    if update.generation is not None:
                        results[update.request_id] = update.generation
                        tell(1)
        return [results[number] for number in numbers]

    @checked_options(Options)
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        chat: bool | None = None,
        parse_special: bool = False,
        trace: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[Frame]:
        """Generate for one prompt, a Frame a step; the last one carries the Generation. Arguments as in `generate`."""
        params = _merged(params, options)
        request = self.request(prompt, params, chat=chat, parse_special=parse_special, trace=trace, frames=True)
        engine = Engine(self, active=1)
        engine.add(request)
        return _frames(engine)

    @checked_options(Options)
    def request(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        chat: bool | None = None,
        parse_special: bool = False,
        trace: bool = False,
        frames: bool = False,
        attend: Callable[[], None] | None = None,
        **options: Unpack[Options],
    ) -> Request:
        """One prompt and its options, checked, for an Engine or a Service. Arguments and errors as in `generate`;
        frames: whether each update carries a Frame; attend: called again and again while the prompt is encoded, so that
        it can end the work by raising."""
        settings = self._resolve(_merged(params, options))
        ids = self._encode(prompt, chat, settings.gen_length, parse_special, attend)
        return Request(tuple(ids), settings, settings.seeds(1)[0], 0, trace, frames)

    @checked_options(InfillOptions)
    def infill(
        self,
        prefix: str | Sequence[int] | ArrayLike,
        suffix: str | Sequence[int] | ArrayLike,
        gen_length: int = 32,
        *,
        trace: bool = False,
        **options: Unpack[InfillOptions],
    ) -> Generation:
        """Fill the `gen_length` positions between two texts, or lists of token ids; no chat template is used.

        options: fields of `dkv.SamplingParams` but gen_length, stop, stop_at_eos and grow. min_tokens: None =
        gen_length, so that no end-of-text is chosen; nothing else would end a hole. Errors as in `generate`.
        """
        gen_length, block_length = as_count("gen_length", gen_length), plain(options.get("block_length"))
        if type(block_length) is int and block_length > 0 and gen_length % block_length:
            raise SettingError(
                f"gen_length={gen_length} must be a multiple of block_length={block_length}", "gen_length", gen_length
            )
        return self.infill_canvas([prefix, gen_length, suffix], trace=trace, **options).generation

    @checked_options(InfillOptions)
    def infill_canvas(
        self, canvas: str | Sequence[Part], *, trace: bool = False, **options: Unpack[InfillOptions]
    ) -> Infilling:
        """Fill the holes of a canvas: a text with `{mask}` or `{mask:12}` in it, or a list of texts (read literally),
        whole numbers (holes of so many positions) and lists of token ids. See `dkv.engine.infill` and docs/lengths.md.

        Blocks divide what lies between the first hole's start and the last one's end. steps: None = one for each
        position to fill. Other options and errors as in `infill`.
        """
        request = self.infill_request(canvas, trace=trace, **options)
        engine = Engine(self, active=1)
        engine.add(replace(request, deltas=False))
        while updates := engine.step():
            if updates[0].error is not None:
                raise updates[0].error
            if updates[0].generation is not None:
                return infilled(request, updates[0].generation, self.tokenizer)
        raise RuntimeError("the engine stopped without a result")

    @checked_options(InfillOptions)
    def infill_request(
        self,
        canvas: str | Sequence[Part],
        *,
        trace: bool = False,
        frames: bool = False,
        **options: Unpack[InfillOptions],
    ) -> Request:
        """A canvas with holes, checked, for an Engine or a Service; `dkv.engine.infill.infilled` reads its result.
        Arguments and errors as in `infill_canvas`; frames: whether each update carries a Frame."""
        ids = canvas_ids(canvas, self.tokenizer, self.model.config)
        block_length = plain(options.get("block_length"))
        start, gen_length = region_of(ids, block_length)
        if options.get("steps") is None and block_length in (None, gen_length):
            options["steps"] = ids.count(None)
        if options.get("min_tokens") is None:
            options["min_tokens"] = gen_length
        settings = self._resolve(SamplingParams(gen_length=gen_length, stop_at_eos=False, **options))
        prompt = tuple(token for token in ids[:start] if token is not None)
        return Request(prompt, settings, settings.seeds(1)[0], 0, trace, frames, given=tuple(ids[start:]))

    @checked_keywords
    def save(self, directory: str | Path, dtype: str | None = None, max_shard_size: str = "5GB") -> None:
        """Write the model in the published format to a directory that does not exist or is empty: all or nothing.

        dtype: of the weights, None = the model's. Config, tokenizer and chat template are those that it was loaded
        with. Raises SettingError, and CheckpointError where that cannot be read or the directory cannot be written.
        """
        model = self.network
        if self.directory is None or not isinstance(model, Transformer):
            raise CheckpointError("save: this model was not loaded from a directory, so its config is not known")
        if model.team is not None:
            ranks = model.team.ranks
            raise SettingError(f"tensor_parallel={ranks}: this process has a share of the model; save it loaded whole")
        if self.quantize is not None:
            raise SettingError(f"quantize={self.quantize!r}: the published format has plain weights; load it without")
        kind = None if dtype is None else named_dtype("dtype", dtype)
        save(model, self.directory, Path(directory).expanduser(), kind, parse_size(max_shard_size))

    def __repr__(self) -> str:
        model = self.model
        dtype = str(model.dtype).removeprefix("torch.")
        return f"<DiffusionLM {self.name or 'without a name'}: {model.config.family}, {model.device}, {dtype}>"

    def __copy__(self) -> DiffusionLM:
        """A copy with the same network: weights never change."""
        return DiffusionLM(self.model, self.tokenizer, self.name, self.audit, self.directory, self._draw, self.backend)

    def __deepcopy__(self, memo: dict[int, object]) -> DiffusionLM:
        """The same as a plain copy."""
        return self.__copy__()

    def __getstate__(self) -> object:
        raise SettingError(f"model={self.name!r}: a loaded model is not pickled; dkv.load it where it is needed")

    def _resolve(self, params: SamplingParams, prompts: int = 1) -> ResolvedParams:
        """The parameters with this model's defaults, for so many prompts. Raises SettingError and SpecError."""
        cache, decoder = params.cache, params.decoder
        if isinstance(cache, str) and cache == AUTO:
            tuned = find_tuned(self.directory, self.name, self.quantize)
            cache, decoder = tuned.cache, tuned.decoder if decoder is None else decoder
        if params.cache_dtype is not None:
            named_dtype("cache_dtype", params.cache_dtype)
        rule = _rule(self.model.config.default_decoder if decoder is None else decoder)
        return params.resolve(_policy(cache), rule, seed_of(params, self._draw, prompts))

    def _encode(
        self,
        prompt: Prompt,
        chat: bool | None,
        gen_length: int,
        parse_special: bool,
        attend: Callable[[], None] | None = None,
    ) -> list[int]:
        return encoded(prompt, chat, gen_length, self.tokenizer, self.model.config, parse_special, attend)


def _merged(params: SamplingParams | None, options: Options) -> SamplingParams:
    """The parameters of a call: `params` with the options on top. Raises SettingError."""
    if params is None:
        return SamplingParams(**options)
    if not isinstance(params, SamplingParams):
        fix = f"give gen_length={params}" if type(params) is int else "give options by name"
        raise SettingError(f"params={shown(params)} must be dkv.SamplingParams; {fix}", "params", params, fix)
    return params.with_options(options)


def _frames(engine: Engine) -> Iterator[Frame]:
    """The frames of an engine's one request; the last carries the result."""
    while updates := engine.step():
        for update in updates:
            if update.error is not None:
                raise update.error
            if update.frame is not None:
                yield replace(update.frame, generation=update.generation)


def _policy(cache: str | CachePolicy) -> CachePolicy:
    if isinstance(cache, str):
        return make_cache(cache)
    cache = plain_fields(cache)
    if not isinstance(cache, CachePolicy):
        fix = "give 'none' for no cache" if cache is None else "give it a method plan(step)"
        raise SettingError(f"cache={cache!r} is neither a spec nor a CachePolicy; {fix}", "cache")
    return cache


def _rule(decoder: str | Decoder) -> Decoder:
    if isinstance(decoder, str):
        return make_decoder(decoder)
    decoder = plain_fields(decoder)
    if not isinstance(decoder, Decoder):
        raise SettingError(
            f"decoder={decoder!r} is neither a spec nor a Decoder; it needs commit_order, query and commit", "decoder"
        )
    return decoder


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` prompts on standard error, or nothing."""
    if not show:
        yield lambda _: None
        return
    bar = Progress(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    with bar:
        task = bar.add_task("denoising", total=total)
        yield lambda done: bar.advance(task, done)
