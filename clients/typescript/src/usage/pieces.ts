/**
 * Pieces of output in one chunk of a model's stream: what there is to count when the stream is left before its provider
 * reports. A piece is about a token with most providers, and several with some.
 *
 * Fields are looked at only once others say that they are there to be read: a stranger's getter may do anything.
 */

import { get, isRecord, list } from './model';

type Fields = Record<string, unknown>;

/** 0: a chunk of a model's stream, without output. Undefined: no chunk of a model's stream, as far as can be told. */
export function piecesOf(value: Fields): number | undefined {
  for (const pieces of [openAIChat, openAIResponses, anthropic, gemini, interactions, cohere, ollama, bedrock, aiSdk, langChain]) {
    const found = pieces(value);
    if (found !== undefined) return found;
  }
  return undefined;
}

function openAIChat(value: Fields): number | undefined {
  const { choices } = value;
  if (!Array.isArray(choices) || value['object'] === 'chat.completion') return undefined;
  const deltas = choices.map((choice: unknown) => get(choice, 'delta') ?? get(choice, 'text'));
  return deltas.filter((delta) => {
    if (typeof delta === 'string') return delta !== '';
    return ['content', 'reasoning_content', 'reasoning', 'refusal', 'tool_calls', 'function_call'].some((name) => isFull(get(delta, name)));
  }).length;
}

function openAIResponses(value: Fields): number | undefined {
  const { type } = value;
  if (typeof type !== 'string' || !/^(response|transcript\.text)\./.test(type)) return undefined;
  return type.endsWith('.delta') && !type.includes('audio') && isFull(value['delta']) ? 1 : 0;
}

const ANTHROPIC_EVENTS = ['message_start', 'message_delta', 'message_stop', 'content_block_start', 'content_block_stop'];

function anthropic(value: Fields): number | undefined {
  const { type } = value;
  if (type === 'content_block_delta') {
    return ['text', 'partial_json', 'thinking'].some((name) => isFull(get(value['delta'], name))) ? 1 : 0;
  }
  return ANTHROPIC_EVENTS.includes(type as string) ? 0 : undefined;
}

function gemini(value: Fields): number | undefined {
  const { candidates } = value;
  if (!Array.isArray(candidates)) return undefined;
  return candidates.flatMap((candidate: unknown) => list(get(get(candidate, 'content'), 'parts'))).length;
}

/** Of Gemini's interactions. */
function interactions(value: Fields): number | undefined {
  const { event_type } = value;
  if (typeof event_type !== 'string' || !/^(interaction|step)\./.test(event_type)) return undefined;
  return event_type.endsWith('.delta') && isFull(value['delta']) ? 1 : 0;
}

function cohere(value: Fields): number | undefined {
  return value['type'] === 'content-delta' && isFull(get(get(value['delta'], 'message'), 'content')) ? 1 : undefined;
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

function aiSdk(value: Fields): number | undefined {
  const { type } = value;
  const texts = ['text', 'delta', 'textDelta', 'inputTextDelta'];
  if (AI_SDK_PIECES.includes(type as string)) return texts.some((name) => isFull(value[name])) ? 1 : 0;
  return AI_SDK_PARTS.includes(type as string) ? 0 : undefined;
}

/**
 * A chunk of the Vercel AI SDK's stream for user interfaces, which never says what was used, or a mark between the parts of
 * its others. Its pieces are told from those of the full stream by the names of their texts.
 */
export function isEcho(value: Fields): boolean {
  const { type } = value;
  if (type === 'text-delta' || type === 'reasoning-delta') return typeof value['delta'] === 'string';
  if (type === 'tool-input-delta') return 'inputTextDelta' in value;
  return AI_SDK_PARTS.includes(type as string);
}

function langChain(value: Fields): number | undefined {
  const isChunk = value['type'] === 'AIMessageChunk' || (typeof value['concat'] === 'function' && 'tool_call_chunks' in value);
  return isChunk ? Number(isFull(value['content']) || isFull(value['tool_call_chunks'])) : undefined;
}

function isFull(value: unknown): boolean {
  return typeof value === 'string' || Array.isArray(value) ? value.length > 0 : isRecord(value);
}
