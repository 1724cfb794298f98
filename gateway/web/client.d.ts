/** The types of client.js: see there for what each does and docs/protocol.md for what the frames mean. */

export const SUBPROTOCOL: "commitcast.v1.json";
/** In place of an agent's id: all agents; the cursor is then the position. */
export const ALL: "*";

export type Status = "initializing" | "running" | "completed" | "failed" | "terminated";
export type MessageType = "assistant" | "user" | "system" | "error" | "tool" | "response";

export interface Message {
  agent: string;
  sequence: number;
  type: MessageType;
  role: string | null;
  /** Always text; `content_type` says whether it is a JSON document. */
  content: string;
  content_type: "text" | "json";
  metadata: Record<string, unknown> | null;
  created_at: string;
  /** Only if it was asked for; base64 if it is not UTF-8. */
  raw?: string | { base64: string } | null;
  /** Only on `"*"`. */
  position?: number;
}

export interface AgentRecord {
  id: string;
  epoch: string;
  type: string;
  status: Status;
  head: number;
  prompt: string;
  created_at: string;
  started_at?: string;
  completed_at?: string;
  error?: AgentFailure;
  result?: unknown;
  configuration?: Record<string, unknown>;
}

export interface AgentFailure {
  name: string | null;
  message: string | null;
}

/** From here on the stream of this subscription, also after each time that it was taken up again. */
export interface SubscribedEvent {
  type: "subscribed";
  agent: string;
  epoch: string;
  after: number;
  head: number;
  first: number;
  status?: Status | null;
  record?: AgentRecord | null;
}

export interface LiveEvent {
  type: "live";
  agent: string;
  sequence: number;
}

export interface StatusEvent {
  type: "status";
  agent: string;
  status: Status;
  previous: Status;
  sequence: number;
  at: string;
  error?: AgentFailure;
  result?: unknown;
  reason?: string;
  prev?: number;
  last?: number;
}

/** Only on `"*"`. */
export interface AgentEvent {
  type: "agent";
  agent: string;
  event: "created" | "updated" | "deleted";
  record?: AgentRecord;
  prev: number;
  last: number;
}

/** What a slow subscriber was not sent, because it asked to `skip`; the store has it. */
export interface GapEvent {
  type: "gap";
  agent: string;
  prev: number;
  last: number;
  status?: Status | null;
}

/** An append that was refused: nothing is missing from the stream. */
export interface ErrorEvent {
  type: "error";
  agent?: string;
  code: string;
  message: string;
  retry: boolean;
}

export type StreamEvent = SubscribedEvent | LiveEvent | StatusEvent | AgentEvent | GapEvent | ErrorEvent;

export type State =
  | { name: "connecting" }
  | { name: "open" }
  /** It comes back after `ms`. */
  | { name: "waiting"; ms: number; reason: string }
  /** By `close()`, or for good by the server. */
  | { name: "closed"; error: Error | null };

/** The reply to a request: done, and if something was stored, it is on disk. */
export interface Ok {
  type: "ok";
  agent?: string;
  sequence?: number;
  status?: Status;
  expires_at?: string;
}

/** Where cursors are kept, for example in `sessionStorage`. `set` is called when the application has consumed. */
export interface Cursors {
  get(agent: string): { cursor: number; epoch?: string | null } | undefined;
  set(agent: string, place: { cursor: number; epoch: string | null }): void;
}

export interface ClientOptions {
  /** Sent in `hello`, never in a URL. A function is asked again, once, when its token is refused or has expired. */
  token?: string | null | (() => string | null | Promise<string | null>);
  cursors?: Cursors;
  /** For Node before 22, from `ws` or `undici`. */
  WebSocket?: unknown;
  onState?: (state: State) => void;
  /** From 0 to 1, for the waits; `Math.random` unless given. */
  random?: () => number;
}

export interface SubscribeOptions {
  /** Every later message is given out; `"tail"` is what is new. Without it: the kept cursor, or else 0. */
  after?: number | "tail";
  /** Of the agent that the cursor belongs to: a relaunched id is then refused. */
  epoch?: string | null;
  /** Whether the producers' lines are wanted. */
  raw?: boolean;
  /** Messages that may wait for the application, 4,096 unless given; null is no bound. */
  window?: number | null;
  /** What the server does when this falls so far behind that memory no longer has what it lacks. */
  slow?: "catch_up" | "skip" | "close";
  /** Called with what is no message, in its place among the messages. */
  onEvent?: (event: StreamEvent) => void;
}

export interface RequestOptions {
  /** Makes a repeated request harmless; a random one unless given. */
  key?: string;
  /** With all repetitions; 30,000 unless given. */
  timeoutMs?: number;
}

/** What was refused for good. */
export class CommitcastError extends Error {
  constructor(code: string, message: string, facts?: { retry?: boolean; head?: number; key?: string });
  /** Of the protocol, or `timeout`, or `closed`. */
  code: string;
  retry: boolean;
  /** With `ahead`: what the store has. */
  head: number | undefined;
  /** With `timeout`: what the request was sent with. */
  key: string | undefined;
}

/** Made by `Client.subscribe`. A message counts as consumed when the next one is asked for. */
export class Subscription implements AsyncIterableIterator<Message> {
  private constructor();
  readonly agent: string;
  cursor: number;
  head: number;
  resumes: number;
  status: string | null;
  record: AgentRecord | null;
  ending: StatusEvent | null;
  epoch: string | null;
  next(): Promise<IteratorResult<Message, undefined>>;
  return(): Promise<IteratorResult<Message, undefined>>;
  close(): void;
  [Symbol.asyncIterator](): this;
}

export class Client {
  constructor(url: string | URL, options?: ClientOptions);
  readonly state: State;
  subscribe(agent: string, options?: SubscribeOptions): Subscription;
  launch(template: string, prompt?: string, options?: RequestOptions): Promise<Ok>;
  send(agent: string, content: string, options?: RequestOptions): Promise<Ok>;
  terminate(agent: string, reason?: string, options?: RequestOptions): Promise<Ok>;
  refresh(): Promise<Ok>;
  cut(ms?: number): void;
  close(): void;
}
