/**
 * The shapes in which model providers and their libraries answer, and what each says of its usage.
 *
 * Told by their fields and not by their classes: the same answer comes from a library, through a gateway, or out of JSON.
 * docs/clients/usage.md lists them with the versions they were tried with.
 */

import { messageOf, UsageError } from '../errors';
import { asidesOf, countsOf } from './arithmetic';
import { get, isRecord, list, text } from './model';
import type { Reading } from './model';
import { isEcho, piecesOf } from './pieces';

type Fields = Record<string, unknown>;

/** What a provider's answer, or one chunk of its stream, says. Undefined: it is neither, as far as can be told. */
export function readProvider(value: unknown): Reading | undefined {
  // A result of streamText is none of it: to look at its usage would make it read its stream to the end.
  if (!isRecord(value) || isStreamResult(value as unknown)) return undefined;
  const { event } = value;
  if (typeof event === 'string' && event.startsWith('on_')) return langChainEvent(event, get(value, 'data'), get(value, 'run_id'));
  const opened = unwrapped(value);
  return readReport(opened) ?? readWithoutReport(opened);
}

/** What `streamText` and `streamObject` of the Vercel AI SDK return: the stream is in it, its usage is promised. */
export function isStreamResult(value: unknown): value is Fields {
  return isRecord(value) && 'fullStream' in value && 'textStream' in value;
}

function readWithoutReport(value: Fields): Reading | undefined {
  const { type } = value;
  if (type === 'response-metadata') return { ...chosen(value['id'], value['modelId']), whole: false };
  if (type === 'abort' || (type === 'error' && 'error' in value)) return { left: true, whole: false };
  if (type === 'response.failed') return { ...named(value), left: true, whole: false };
  // The run that it is a step of has the sum.
  if (value['object'] === 'thread.run.step') return undefined;
  // What LangGraph says of the message beside it.
  if (typeof value['ls_model_name'] === 'string') return { model: value['ls_model_name'], asked: true, whole: false };
  const pieces = piecesOf(value);
  if (pieces === undefined) return isWholeAnswer(value) ? { ...named(value), whole: true } : undefined;
  // The id of an event is that of the event, or of a part of the answer.
  const isEvent = typeof type === 'string' && type !== 'AIMessageChunk' && type !== 'ai';
  const response = value['response'] ?? (typeof value['event_type'] === 'string' ? value['interaction'] : undefined);
  const names = isEvent || typeof value['event_type'] === 'string' ? chosen(get(response, 'id'), get(response, 'model')) : named(value);
  const echo = isEcho(value) ? { echo: true } : {};
  return { ...names, ...echo, whole: false, ...(pieces > 0 ? { output_token: pieces, kind: 'increment', pieces: 'early' } : {}) };
}

/** What libraries wrap around an answer or an event: raw responses, Bedrock's bytes, names of events, lines of a batch. */
function unwrapped(value: Fields): Fields {
  if ('custom_id' in value) {
    const answer = get(value['result'], 'message') ?? get(value['response'], 'body');
    return isRecord(answer) ? answer : value;
  }
  const bytes = get(value['chunk'], 'bytes') ?? ('contentType' in value ? value['body'] : undefined);
  if (bytes instanceof Uint8Array) return parsed(bytes) ?? value;
  // With its HTTP response, or with the name of its event as OpenAI's assistants have it.
  const data = 'response' in value || text(value['event']) !== undefined ? get(value, 'data') : undefined;
  return isRecord(data) ? data : value;
}

/** An event of LangChain's `streamEvents`. Those of the chains around a model repeat the model's. */
function langChainEvent(event: string, data: unknown, runId: unknown): Reading | undefined {
  // The call of the model: its last chunk has another id than those before it.
  const names = typeof runId === 'string' ? { answerId: runId } : {};
  const isChunk = /^on_(chat_model|llm)_stream$/.test(event);
  if (!isChunk && !/^on_(chat_model|llm)_end$/.test(event)) return undefined;
  const reading = readProvider(get(data, isChunk ? 'chunk' : 'output'));
  // The end's is put together of the chunks, and a chunk itself.
  return reading && { ...reading, ...names, ...(isChunk ? {} : { kind: 'total', whole: true }) };
}

function readReport(value: Fields): Reading | undefined {
  for (const read of [ollama, aiSdk, langChain, bedrockStream, embeddings, reported, cohere, bare]) {
    const reading = read(value);
    if (reading) return reading;
  }
  return undefined;
}

/** OpenAI (chat completions, responses, their events), Anthropic (messages and events), Gemini, and what copies them. */
function reported(value: Fields): Reading | undefined {
  const { type, object } = value;
  if (object === 'thread.run.step') return undefined;
  for (const holder of holdersOf(value)) {
    if (!isRecord(holder)) continue;
    const report = holder['usage'] ?? holder['usageMetadata'] ?? holder['usage_metadata'];
    if (!isRecord(report)) continue;
    const names = { ...named(value), ...named(holder) };
    if (type === 'message_start') {
      // Its count of output was made before there was any.
      return { ...total(report, names), final: false, whole: false };
    }
    if (type === 'message_delta') return { ...total(report, {}), inputAtLeast: true, whole: false };
    const isPiece = typeof type === 'string' || typeof value['event_type'] === 'string' || object === 'chat.completion.chunk';
    return { ...total(report, names), ...(isWholeAnswer(value) ? { whole: true } : isPiece ? { whole: false } : {}) };
  }
  return undefined;
}

/** Where a usage may stand, one after the other: a stranger's getters are called only as far as is needed. */
function* holdersOf(value: Fields): Iterable<unknown> {
  yield value;
  yield value['message'];
  yield value['response'];
  // Groq's has an id of its own.
  yield { usage: get(value['x_groq'], 'usage') };
  // Gemini's interactions.
  yield value['interaction'];
  if (value['type'] === 'message-end') yield { id: value['id'], usage: get(value['delta'], 'usage') };
}

function ollama(value: Fields): Reading | undefined {
  const done = value['done'];
  if (value['prompt_eval_count'] === undefined && value['eval_count'] === undefined) return undefined;
  const { prompt_eval_count = 0, eval_count = 0 } = value;
  // No id in it: what comes after the end of an answer is another answer.
  return { ...total({ prompt_eval_count, eval_count }, named(value)), final: done !== false };
}

/** Parts of the Vercel AI SDK's streams, and the results of its functions. */
function aiSdk(value: Fields): Reading | undefined {
  const { type, response } = value;
  if (type === 'finish' && isRecord(value['totalUsage'])) return { ...total(value['totalUsage'], {}), final: true, whole: false, sum: true };
  if (type === 'finish' && isRecord(value['usage'])) return { ...total(value['usage'], {}), final: true, whole: false };
  if ((type === 'finish-step' || type === 'step-finish') && isRecord(value['usage'])) {
    const names = chosen(get(response, 'id'), get(response, 'modelId'));
    return { ...total(value['usage'], names), final: true, whole: false, retold: true };
  }
  const report = get(value, 'totalUsage', 'usage');
  if (!isRecord(report)) return undefined;
  if ('tokens' in report && ('embedding' in value || 'embeddings' in value)) {
    return { ...total({ inputTokens: report['tokens'] }, named(value)), whole: true, report, retold: true };
  }
  const steps = list(value['steps']);
  const isResult = 'finishReason' in value && ('steps' in value || 'content' in value || 'object' in value);
  if (!isResult && !('images' in value)) return undefined;
  const { model, answerId } = named(value);
  // The id is the last step's, and so is `usage` where there is a `totalUsage`.
  const names = chosen(steps.length > 1 ? undefined : answerId, model);
  return { ...total(report, names), whole: true, requests: Math.max(1, steps.length), retold: true };
}

/** LangChain's messages. Its chunks carry increments, whatever the provider sent. */
function langChain(value: Fields): Reading | undefined {
  const said = value['response_metadata'];
  const report = value['usage_metadata'] ?? get(said, 'tokenUsage');
  if (!isRecord(report) || !('input_tokens' in report || 'output_tokens' in report || 'promptTokens' in report)) return undefined;
  const names = chosen(value['id'], get(said, 'model_name', 'model') ?? value['model']);
  const isMessage = typeof value['concat'] !== 'function' && value['type'] !== 'AIMessageChunk';
  return { ...total(report, names), ...(isMessage ? { whole: true } : { kind: 'increment', whole: false }) };
}

function bedrockStream(value: Fields): Reading | undefined {
  const { metadata } = value;
  const report = value['amazon-bedrock-invocationMetrics'] ?? get(metadata, 'usage');
  return isRecord(report) ? { ...total(report, {}), final: true, whole: false } : undefined;
}

/** Where nothing is said of output because there is none. */
function embeddings(value: Fields): Reading | undefined {
  const { usage, embeddings: vectors } = value;
  if (isOpenAIEmbedding(value) && isRecord(usage) && usage['prompt_tokens'] == null && usage['total_tokens'] != null) {
    return { ...total({ prompt_tokens: usage['total_tokens'] }, named(value)), whole: true, report: usage };
  }
  const counted = list(vectors).flatMap((item) => get(get(item, 'statistics'), 'tokenCount') ?? []);
  if (counted.length === 0) return undefined;
  const sum = counted.reduce((all: number, one) => all + Number(one), 0);
  return { ...total({ inputTokenCount: sum }, named(value)), whole: true };
}

function isOpenAIEmbedding(value: Fields): boolean {
  return value['object'] === 'list' && list(value['data']).some((item) => get(item, 'embedding') !== undefined);
}

/** Cohere's older answers, and its embeddings. */
function cohere(value: Fields): Reading | undefined {
  const { meta } = value;
  const isUsage = isRecord(meta) && ['tokens', 'billed_units', 'billedUnits'].some((name) => isRecord(meta[name]));
  return isUsage ? { ...total(meta, named(value)), ...(typeof value['event_type'] === 'string' ? { whole: false } : { whole: true }) } : undefined;
}

/** The usage itself, handed on without its answer. */
function bare(value: Fields): Reading | undefined {
  const isUsage = [
    ['prompt_tokens', 'completion_tokens'],
    ['input_tokens', 'output_tokens'],
    ['inputTokens', 'outputTokens'],
    ['promptTokenCount', 'candidatesTokenCount'],
  ].some((names) => names.every((name) => name in value));
  return isUsage ? { ...total(value, {}), whole: true } : undefined;
}

function total(report: Fields, names: Pick<Reading, 'model' | 'answerId'>): Reading {
  const reading: Reading = { ...names, kind: 'total', report };
  try {
    const asides = asidesOf(report);
    return { ...reading, ...countsOf(report), ...(Object.keys(asides).length > 0 ? { asides } : {}) };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return { ...reading, problem: messageOf(error) };
  }
}

function named(value: Fields): Pick<Reading, 'model' | 'answerId'> {
  const { response } = value;
  return chosen(
    get(value, 'id', 'responseId', 'response_id') ?? get(response, 'id') ?? get(value['$metadata'], 'requestId'),
    // The AI SDK has an object there, beside the response.
    text(get(value, 'model', 'modelVersion', 'model_version')) ?? get(response, 'modelId', 'model') ?? get(value['response_metadata'], 'model_name', 'model'),
  );
}

function chosen(id: unknown, name: unknown): Pick<Reading, 'model' | 'answerId'> {
  const answerId = text(id);
  const model = text(name);
  return { ...(answerId === undefined ? {} : { answerId }), ...(model === undefined ? {} : { model }) };
}

/** Complete answers of a model, whether or not they say what they used. */
function isWholeAnswer(value: Fields): boolean {
  const { object, type } = value;
  if (object === 'chat.completion' || object === 'text_completion' || object === 'response' || object === 'interaction') return true;
  if (type === 'message' && value['role'] === 'assistant') return true;
  if (type === 'ai' && 'response_metadata' in value) return true;
  if (isOpenAIEmbedding(value) || list(value['embeddings']).some((item) => Array.isArray(get(item, 'values')))) return true;
  if ('stopReason' in value && isRecord(get(value['output'], 'message'))) return true;
  return 'finishReason' in value && Array.isArray(value['steps']);
}

function parsed(bytes: Uint8Array): Fields | undefined {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}
