/**
 * Pieces of output in one chunk of a model's stream: what there is to count when the stream is left before its provider
 * reports. A piece is about a token with most providers, and several with some.
 */

import { get, isRecord, list } from './model';

type Fields = Record<string, unknown>;

/** 0: a chunk of a model's stream, without output. Undefined: no chunk of a model's stream, as far as can be told. */
export function piecesOf(value: Fields): number | undefined {
  for (const pieces of [openAIChat, openAIResponses, anthropic, gemini, ollama, bedrock, aiSdk, langChain]) {
    const found = pieces(value);
    if (found !== undefined) return found;
  }
  return undefined;
}

function openAIChat({ choices, object }: Fields): number | undefined {
  if (!Array.isArray(choices) || object === 'chat.completion') return undefined;
  const deltas = choices.map((choice: unknown) => get(choice, 'delta') ?? get(choice, 'text'));
  return deltas.filter((delta) => {
    if (typeof delta === 'string') return delta !== '';
    return ['content', 'reasoning_content', 'reasoning', 'refusal', 'tool_calls'].some((name) => isFull(get(delta, name)));
  }).length;
}

function openAIResponses({ type, delta }: Fields): number | undefined {
  if (typeof type !== 'string' || !type.startsWith('response.')) return undefined;
  return type.endsWith('.delta') && isFull(delta) ? 1 : 0;
}

const ANTHROPIC_EVENTS = ['message_start', 'message_delta', 'message_stop', 'content_block_start', 'content_block_stop'];

function anthropic({ type, delta }: Fields): number | undefined {
  if (type === 'content_block_delta') return ['text', 'partial_json', 'thinking'].some((name) => isFull(get(delta, name))) ? 1 : 0;
  return ANTHROPIC_EVENTS.includes(type as string) ? 0 : undefined;
}

function gemini({ candidates }: Fields): number | undefined {
  if (!Array.isArray(candidates)) return undefined;
  return candidates.flatMap((candidate: unknown) => list(get(get(candidate, 'content'), 'parts'))).length;
}

function ollama(value: Fields): number | undefined {
  if (value['done'] !== false || !('model' in value)) return undefined;
  const { message, response } = value;
  return isFull(response) || ['content', 'thinking', 'tool_calls'].some((name) => isFull(get(message, name))) ? 1 : 0;
}

const BEDROCK_EVENTS = ['messageStart', 'messageStop', 'contentBlockStart', 'contentBlockStop'];

function bedrock(value: Fields): number | undefined {
  if (isRecord(value['contentBlockDelta'])) return isRecord(value['contentBlockDelta']['delta']) ? 1 : 0;
  return BEDROCK_EVENTS.some((name) => isRecord(value[name])) ? 0 : undefined;
}

const AI_SDK_PIECES = ['text-delta', 'reasoning-delta', 'tool-input-delta'];
// Not "start", "error" and the like: those are anybody's words.
const AI_SDK_PARTS = ['start-step', 'finish-step', 'text-start', 'text-end', 'reasoning-start', 'reasoning-end', 'stream-start'];

function aiSdk({ type, text, delta, textDelta }: Fields): number | undefined {
  if (AI_SDK_PIECES.includes(type as string)) return [text, delta, textDelta].some(isFull) ? 1 : 0;
  return AI_SDK_PARTS.includes(type as string) ? 0 : undefined;
}

function langChain(value: Fields): number | undefined {
  const isChunk = value['type'] === 'AIMessageChunk' || (typeof value['concat'] === 'function' && 'tool_call_chunks' in value);
  return isChunk ? Number(isFull(value['content']) || isFull(value['tool_call_chunks'])) : undefined;
}

function isFull(value: unknown): boolean {
  return typeof value === 'string' || Array.isArray(value) ? value.length > 0 : isRecord(value);
}
