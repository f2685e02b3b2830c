"""Reading what a run used from whatever the service function returned, and adding it up.

Understood as they are, from mappings, dataclasses and any object with attributes: the guide's `input_token`,
`output_token` and `model`, and the usage of OpenAI (chat, Responses, embeddings), Anthropic, Gemini,
Bedrock, Ollama, LangChain, the AI SDK and whatever copies them; whole, as stream events, and in lists and
tuples.

- `model`: `Usage`, what one reading says;
- `arithmetic`: from a provider's report to counts, by the total that has to come out;
- `shapes`: where each provider puts its report, its ids and its text;
- `held`: the providers' streams behind a stream of something else;
- `answer`: what was read of one answer;
- `meter`: the sum of a run, and the error where it can't be had;
- `seen`: what such an error shows of a report.

An extractor is any function of one result or chunk that answers a `Usage`, a mapping, or None for "says
nothing".
"""

from tokentill.usage.meter import Meter, Settled, Used, count_deltas, read_usage
from tokentill.usage.model import Extractor, Usage
from tokentill.usage.shapes.envelopes import answer_of_error
from tokentill.usage.shapes.out_of_sight import is_out_of_sight

__all__ = [
    "Extractor",
    "Meter",
    "Settled",
    "Usage",
    "Used",
    "answer_of_error",
    "count_deltas",
    "is_out_of_sight",
    "read_usage",
]
