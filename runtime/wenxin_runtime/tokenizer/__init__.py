"""Text to token ids and back, without transformers and without torch.

`tokenizer.Tokenizer` loads a checkpoint's files and encodes; `chat_template` renders messages with the checkpoint's
own Jinja template, in the bounds of `template_sandbox`; `control_tokens` keeps a user's text from forging the
template's tokens; `pieces` and `detokenizer` turn generated ids into text as they come; `stop_strings` finds the
strings that end an answer.
"""

from wenxin_runtime.tokenizer.detokenizer import Detokenizer
from wenxin_runtime.tokenizer.stop_strings import StopStrings
from wenxin_runtime.tokenizer.tokenizer import Tokenizer

__all__ = ["Detokenizer", "StopStrings", "Tokenizer"]
