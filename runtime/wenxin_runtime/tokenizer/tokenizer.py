"""Load a checkpoint's tokenizer files the way transformers' AutoTokenizer reads them for ERNIE 4.5.

That is: tokenizer.json as it stands, post-processor included (so `add_bos_token` in tokenizer_config.json changes
nothing), plus the tokens that tokenizer_config.json adds or declares special.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from wenxin_runtime.errors import CheckpointError, ConfigError, InvalidRequest
from wenxin_runtime.tokenizer.chat_template import ChatTemplate, Message
from wenxin_runtime.tokenizer.control_tokens import ControlTokens
from wenxin_runtime.tokenizer.pieces import Pieces

_NAMED_SPECIALS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """A checkpoint's tokenizer and its chat template, where it has one."""

    def __init__(self, backend: tokenizers.Tokenizer, template: ChatTemplate | None = None) -> None:
        """Wrap `backend`, without truncation and padding."""
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.template = template
        self.pieces = Pieces(backend)

    @classmethod
    def load(cls, model_dir: str | Path, chat_template: str | Path | None = None) -> "Tokenizer":
        """Read the tokenizer of the checkpoint in `model_dir`.

        Args:
            model_dir: Directory with tokenizer.json, and mostly tokenizer_config.json.
            chat_template: File with a template that replaces the checkpoint's own.

        Raises:
            CheckpointError: a file is missing or broken; names it.
            ConfigError: `chat_template` cannot be read.
        """
        directory = Path(model_dir)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; a checkpoint in the -PT layout has it")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path} is no tokenizer: {error}") from error
        settings = _settings(directory / "tokenizer_config.json")
        try:
            specials = _add_tokens(backend, settings)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{directory / 'tokenizer_config.json'}: a token is declared wrong: {error}"
            ) from error
        source = _template_source(directory, settings, chat_template)
        return cls(backend, ChatTemplate(source, specials) if source is not None else None)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Encode `text`; special tokens written in it become tokens. Releases the GIL while it works."""
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Decode a whole text."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def encode_continuation(self, text: str) -> list[int]:
        """Encode `text` as it stands behind another: without what a tokenizer puts before the start of a text."""
        return self._control_tokens.continued(text, self.encode)

    def id_of(self, token: str) -> int | None:
        """Return the id of the token that is spelled so in tokenizer.json."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def is_added(self, token: str) -> bool:
        """Say whether `token` is one token, added to the vocabulary, special or not."""
        return any(added.content == token for added in self._backend.get_added_tokens_decoder().values())

    def spelling(self, token_id: int) -> str:
        """Return how tokenizer.json spells a token (`▁the`, `<0x0A>`); empty for an id that it does not have."""
        return self._backend.id_to_token(token_id) or ""

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Render `messages` and encode the result; control tokens inside messages and tools stay text.

        Raises:
            InvalidRequest: there is no template, or it refuses the messages.
        """
        if self.template is None:
            raise InvalidRequest(
                "this model has no chat template; use /v1/completions, or start the server with --chat-template"
            )
        values: dict[str, Any]
        values = {"messages": list(messages), "tools": list(tools or []), "kwargs": dict(template_kwargs or {})}
        forged = self._control_tokens.occur_in(values)
        if forged:
            values = self._control_tokens.mark(values)
        text = self.template.render(
            values["messages"],
            tools=values["tools"],
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=values["kwargs"],
        )
        if forged:
            return self._control_tokens.encode(text)
        return self.encode(text, add_special_tokens=add_special_tokens)

    @functools.cached_property
    def _control_tokens(self) -> ControlTokens:
        template = self.template
        added = self._backend.get_added_tokens_decoder().values()
        guarded = [
            token.content
            for token in added
            if token.special or (template and template.writes(token.content) and not token.content.isspace())
        ]
        return ControlTokens(guarded, encode=self.encode, encode_as_text=self._encode_as_text)

    def _encode_as_text(self, text: str) -> list[int]:
        ids: list[int] = self._backend_without_added_tokens.encode(text, add_special_tokens=False).ids
        return ids

    @functools.cached_property
    def _backend_without_added_tokens(self) -> tokenizers.Tokenizer:
        """A copy that knows no added token. Made when a control token first turns up in a message: it costs memory."""
        content = json.loads(self._backend.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps({**content, "added_tokens": [], "post_processor": None}))


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def _add_tokens(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> dict[str, str]:
    """Add what tokenizer_config.json declares and tokenizer.json lacks; return the named specials for the template."""
    declared = [_added_token(token) for _, token in _sorted_by_id(settings.get("added_tokens_decoder") or {})]
    known = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    backend.add_tokens([token for token in declared if repr(token) not in known])
    named = {name: _text(settings[name]) for name in _NAMED_SPECIALS if settings.get(name)}
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    extra_texts = [_text(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
    by_text = {token.content: token for token in declared}
    backend.add_special_tokens([_special(text, by_text) for text in [*named.values(), *extra_texts]])
    return named


def _sorted_by_id(added_tokens: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(added_tokens.items(), key=lambda item: int(item[0]))


def _special(text: str, declared: Mapping[str, tokenizers.AddedToken]) -> tokenizers.AddedToken:
    return declared.get(text) or tokenizers.AddedToken(text, special=True, normalized=False)


def _added_token(value: Mapping[str, Any]) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(**{key: part for key, part in value.items() if key != "__type"})


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _template_source(directory: Path, settings: Mapping[str, Any], override: str | Path | None) -> str | None:
    """Find the template: the flag's file, else chat_template.jinja, else tokenizer_config.json's (named) one."""
    if override is not None:
        try:
            return Path(override).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--chat-template {override} cannot be read: {error}") from error
    own_file = directory / "chat_template.jinja"
    if own_file.is_file():
        return own_file.read_text(encoding="utf-8")
    declared = settings.get("chat_template")
    return _named_template(declared) if isinstance(declared, list) else declared


def _named_template(templates: Iterable[Mapping[str, str]]) -> str | None:
    by_name = {entry["name"]: entry["template"] for entry in templates}
    return by_name.get("default")
