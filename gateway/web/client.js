/**
 * A subscriber in JavaScript, for browsers and Node: `for await (const message of client.subscribe(agent)) …`.
 *
 * Owns the client's half of the promises: it keeps a cursor for each agent, checks that frames join, comes back by
 * itself after whatever went wrong, and so gives out every message exactly once, in order. One `Client` is one
 * connection, however many agents it follows. Must never put a token into a URL. Depends on nothing.
 */

/** @typedef {import("./client.d.ts").Message} Message */
/** @typedef {import("./client.d.ts").StreamEvent} StreamEvent */
/** @typedef {import("./client.d.ts").Ok} Ok */
/** @typedef {import("./client.d.ts").State} State */
/** @typedef {import("./client.d.ts").Cursors} Cursors */
/** @typedef {import("./client.d.ts").ClientOptions} ClientOptions */
/** @typedef {import("./client.d.ts").SubscribeOptions} SubscribeOptions */
/** @typedef {import("./client.d.ts").RequestOptions} RequestOptions */
/** @typedef {Record<string, any> & {type: string}} Frame */
/** @typedef {{frame: Frame, resolve: (ok: Ok) => void, reject: (error: Error) => void, timer: Timer}} Pending */
/** @typedef {ReturnType<typeof setTimeout> | undefined} Timer */
/**
 * What a subscription needs of its client.
 * @typedef {{cursors: Cursors | undefined, ackSoon(): void, begin(from: Subscription): void,
 *     again(from: Subscription): void, forget(from: Subscription): void}} Link
 */

export const SUBPROTOCOL = "commitcast.v1.json";
export const ALL = "*";

/** Messages (on `"*"`: positions) that may wait for the application: a browser cannot push back on a WebSocket. */
const WINDOW = 4096;
/** First and longest wait before coming back; each is drawn evenly from zero to twice the one before (full jitter). */
const BACKOFF_MS = [500, 20_000];
/** Between acknowledgements: often enough to keep the window open, seldom enough to cost nothing. */
const ACK_MS = 100;
/** For address, socket and `welcome` together: a browser itself would wait for minutes. */
const CONNECT_MS = 20_000;
/** For a request, with all its repetitions. */
const REQUEST_MS = 30_000;

const TERMINAL = new Set(["completed", "failed", "terminated"]);
const TOKEN_CODES = new Set(["unauthenticated", "token_expired"]);
/** Of an error that answers nothing: the agent is gone, or the right to read it, and with it the subscription. */
const ENDING_CODES = new Set(["gone", "not_found", "forbidden"]);
/** Error codes for the close codes after which a client does not come back. @type {Record<number, string>} */
const FINAL_CLOSES = {
  4500: "bad_request", 4501: "unauthenticated", 4503: "forbidden", 4504: "limit", 4507: "unauthenticated",
};

/** A final refusal, with the protocol's `code` (or `timeout`, `closed`). */
export class CommitcastError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retry?: boolean, head?: number, key?: string}} [facts]
   */
  constructor(code, message, { retry = false, head, key } = {}) {
    super(message);
    this.name = "CommitcastError";
    this.code = code;
    this.retry = retry;
    this.head = head;
    this.key = key;
  }
}

/** An async iterator over one agent's messages (or all agents'), from a cursor until the agent's end. */
export class Subscription {
  /** Where the application stands: give it as `after` to continue elsewhere. */
  cursor = 0;
  /** The last sequence (on `"*"`: position) that the store is known to have. */
  head = 0;
  /** How often it was taken up again after the first time. */
  resumes = 0;
  /** Of the agent, in step with the messages given out. @type {string | null} */
  status = null;
  /** The agent as of the last subscribing. @type {import("./client.d.ts").AgentRecord | null} */
  record = null;
  /** The change of status that ended the agent. @type {import("./client.d.ts").StatusEvent | null} */
  ending = null;
  /** @type {string | null} */
  epoch;

  /** Of the newest subscribe; replies to older ones are ignored. @internal */
  _id = 0;
  #asked = /** @type {number | "tail"} */ (0);
  #isPlaced = false;
  #isSubscribed = false;
  #isOver = false;
  /** It is to be taken up again, once the application has what arrived: so the queue stays within the window. */
  #isDue = false;
  #isClosed = false;
  /** The cursor of what has arrived; between it and `cursor` is the queue. */
  #received = 0;
  #consumed = -1;
  #acked = 0;
  #status = /** @type {string | null} */ (null);
  #endsAt = /** @type {number | null} */ (null);
  #doubted = /** @type {number | null} */ (null);
  #error = /** @type {Error | null} */ (null);
  #told = /** @type {Set<string>} */ (new Set());
  #queue = /** @type {Frame[]} */ ([]);
  #wake = () => {};
  #messages;
  #options;
  #window;
  #link;

  /**
   * @param {string} agent
   * @param {SubscribeOptions} options
   * @param {Link} link
   */
  constructor(agent, options, link) {
    const kept = options.after === undefined ? link.cursors?.get(agent) : undefined;
    this.agent = agent;
    this.epoch = options.epoch ?? kept?.epoch ?? null;
    this.#asked = options.after ?? kept?.cursor ?? 0;
    this.cursor = this.#asked === "tail" ? 0 : this.#asked;
    this.#window = options.window === undefined ? WINDOW : options.window;
    this.#options = options;
    this.#link = link;
    this.#messages = this.#run();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** Return the next message. The one before it counts as consumed from then on. */
  next() {
    return this.#messages.next();
  }

  /** End it, as `break` in a `for await` does. The last message given out counts as not consumed. */
  return() {
    this.close();
    return this.#messages.return(undefined);
  }

  /** Get nothing more. Idempotent. */
  close() {
    this.#queue = [];
    this.#isClosed = true;
    this.#finish();
  }

  /** @returns {AsyncGenerator<Message, undefined, void>} */
  async *#run() {
    for (;;) {
      const frame = this.#queue.shift();
      if (frame === undefined) {
        if (this.#error) throw this.#error;
        if (this.#isOver) return undefined;
        await /** @type {Promise<void>} */ (new Promise((resolve) => (this.#wake = resolve)));
      } else if (frame.type === "messages") {
        for (const item of /** @type {Message[]} */ (frame.items)) {
          if (this.#isClosed) return undefined;
          item.agent ??= this.agent;
          this.#moveTo(item.position ?? item.sequence);
          yield item;
          this.#consume();
        }
        this.#moveTo(frame.last);
        this.#consume();
      } else {
        this.#tell(frame);
      }
    }
  }

  /** @param {number} cursor */
  #moveTo(cursor) {
    this.cursor = cursor;
    if (this.#isDue && cursor === this.#received) this.#link.begin(this);
  }

  #consume() {
    if (this.cursor === this.#consumed) return;
    this.#consumed = this.cursor;
    this.#link.cursors?.set(this.agent, { cursor: this.cursor, epoch: this.epoch });
    this.#link.ackSoon();
  }

  /** Apply what is no message, in its place among the messages. @param {Frame} frame */
  #tell(frame) {
    if (frame.type === "subscribed") {
      this.record = frame.record ?? null;
      this.status = frame.status ?? null;
    } else if (frame.type === "status" && this.agent !== ALL) {
      if (this.#told.has(frame.status)) return; // what is right at the cursor is sent again after a resume
      this.#told.add(frame.status);
      this.status = frame.status;
      if (TERMINAL.has(frame.status)) this.ending = /** @type {any} */ (frame);
    } else if (frame.type === "gap") {
      this.status = frame.status ?? this.status;
    }
    if (frame.last !== undefined) {
      this.#moveTo(frame.last);
      this.#consume();
    }
    this.#options.onEvent?.(/** @type {StreamEvent} */ (frame));
  }

  /** Return the frame that begins it, or takes it up again; null while the application has not what arrived.
   * @internal @param {number} id */
  _subscribe(id) {
    this.#isSubscribed = false;
    this.#isDue = this.#isPlaced && this.cursor !== this.#received;
    if (this.#isDue || this.#isOver) return null;
    this._id = id;
    const { raw = false, slow } = this.#options;
    const after = this.#isPlaced ? this.cursor : this.#asked;
    this.#asked = after;
    return {
      type: "subscribe", id, agent: this.agent, after, raw,
      ...(this.epoch !== null && { epoch: this.epoch }),
      ...(this.#window !== null && { window: this.#window }),
      ...(slow && { slow }),
    };
  }

  /** Take nothing more before a new subscribe. @internal */
  _lost() {
    this.#isSubscribed = this.#isDue = false;
  }

  /** @internal @param {Error} error */
  _fail(error) {
    this.#error ??= error;
    this.#finish();
  }

  #finish() {
    const wasOver = this.#isOver;
    this.#isOver = true;
    this.#wake();
    if (!wasOver) this.#link.forget(this);
  }

  /** Return the cursor to be acknowledged, or null. @internal */
  _ack() {
    if (this.#window === null || !this.#isSubscribed || this.#consumed <= this.#acked) return null;
    return (this.#acked = this.#consumed);
  }

  /** Take a frame of its stream. @internal @param {Frame} frame */
  _take(frame) {
    if (this.#isOver) return;
    if (frame.type === "subscribed") {
      if (frame.id !== this._id) return;
      if (!this.#onSubscribed(frame)) return this.#link.again(this);
    } else {
      if (!this.#isSubscribed) return;
      if (!this.#moves(frame)) return this.#link.again(this);
    }
    if (frame.type === "error" && this.#queue.length >= WINDOW) return; // no window holds these back
    this.#queue.push(frame);
    this.#wake();
    const isOver = frame.type === "live" && this.#status !== null && TERMINAL.has(this.#status);
    // What was stored after the end is given out too, if it was there when this began.
    if (isOver || (this.#endsAt !== null && this.#received >= Math.max(this.#endsAt, this.head))) this.#finish();
  }

  /** @param {Frame} frame */
  #onSubscribed(frame) {
    if (this.#asked !== "tail" && this.#asked !== frame.after) return false;
    if (this.#isPlaced) this.resumes++;
    this.#isPlaced = this.#isSubscribed = true;
    this.cursor = this.#received = this.#acked = frame.after;
    this.#doubted = null;
    this.epoch = frame.epoch;
    this.head = frame.head;
    this.#status = frame.status ?? null;
    return true;
  }

  /** Apply the client's rule: whether a frame joins what has arrived. @param {Frame} frame */
  #moves(frame) {
    const isStep = frame.type === "messages" || frame.type === "gap" || frame.type === "agent";
    if (isStep || (frame.type === "status" && this.agent === ALL)) {
      if (frame.prev !== this.#received) return false;
      this.#received = frame.last;
      this.head = Math.max(this.head, frame.last);
    }
    if (this.agent === ALL) return true;
    if (frame.type === "status" && frame.sequence > this.#received) return false;
    if (frame.type === "status" || (frame.type === "gap" && frame.status)) {
      this.#status = frame.status;
      if (TERMINAL.has(frame.status)) this.#endsAt = frame.sequence ?? frame.last;
    }
    return true;
  }

  /** Doubt the stream if the store is ahead: what is missing may be on its way, but not for a whole heartbeat.
   * @internal @param {number} head */
  _onHeartbeat(head) {
    if (!this.#isSubscribed || this.#isOver) return;
    this.head = Math.max(this.head, head);
    const isShut = this.#window !== null && this.#received - this.#acked >= this.#window;
    const isBehind = head > this.#received && !isShut;
    if (isBehind && this.#doubted === this.#received) return this.#link.again(this);
    this.#doubted = isBehind ? this.#received : null;
  }
}

/** One connection to a server, which comes back by itself. */
export class Client {
  /** @type {State} */
  state = { name: "connecting" };

  #url;
  #options;
  #WebSocket;
  #random;
  #link;
  #socket = /** @type {WebSocket | null} */ (null);
  /** Told apart from `#socket`, because asking for a token takes its time. */
  #attempt = 0;
  #isReady = false;
  #token = /** @type {string | null} */ (null);
  #helloId = 0;
  /** The token was asked for again, and nothing was heard since that shows it to be good. */
  #hasRenewed = false;
  #failures = 0;
  #comeBackMs = /** @type {number | undefined} */ (undefined);
  #heardAt = 0;
  #silenceMs = CONNECT_MS;
  #nextId = 1;
  #subscriptions = /** @type {Map<string, Subscription>} */ (new Map());
  #requests = /** @type {Map<number, Pending>} */ (new Map());
  #waiting = /** @type {Timer} */ (undefined);
  #watching = /** @type {Timer} */ (undefined);
  #acking = /** @type {Timer} */ (undefined);

  /**
   * @param {string | URL} url `ws://HOST:PORT/v1/ws`
   * @param {ClientOptions} [options]
   */
  constructor(url, options = {}) {
    this.#url = String(url).replace(/^http/, "ws");
    this.#options = options;
    this.#WebSocket = /** @type {typeof WebSocket} */ (options.WebSocket ?? globalThis.WebSocket);
    if (!this.#WebSocket) throw new TypeError("this environment has no WebSocket: pass one as an option");
    this.#random = options.random ?? Math.random;
    this.#link = {
      cursors: options.cursors,
      ackSoon: () => void (this.#acking ??= setTimeout(() => this.#ack(), ACK_MS)),
      begin: (/** @type {Subscription} */ from) => this.#begin(from),
      again: (/** @type {Subscription} */ from) => this.#again(from),
      forget: (/** @type {Subscription} */ from) => this.#forget(from),
    };
    globalThis.addEventListener?.("online", this.#hurry);
    globalThis.document?.addEventListener("visibilitychange", this.#hurry);
    queueMicrotask(() => this.#connect());
  }

  /**
   * Follow an agent, or with `"*"` all of them. The iterator ends when the agent has ended.
   * @param {string} agent
   * @param {SubscribeOptions} [options]
   */
  subscribe(agent, options = {}) {
    if (this.#subscriptions.has(agent)) {
      throw new CommitcastError("bad_request", `this client is already subscribed to ${agent}: close that subscription first`);
    }
    const subscription = new Subscription(agent, options, this.#link);
    if (this.state.name === "closed") {
      subscription._fail(this.state.error ?? new CommitcastError("closed", "this client is closed: create another"));
    } else {
      this.#subscriptions.set(agent, subscription);
      this.#begin(subscription);
    }
    return subscription;
  }

  /** Launch an agent from a template of the server's owner. @param {string} template @param {string} [prompt]
   * @param {RequestOptions} [options] */
  launch(template, prompt = "", options = {}) {
    return this.#request({ type: "launch", template, prompt }, options);
  }

  /** Send a durable user message to an agent. @param {string} agent @param {string} content
   * @param {RequestOptions} [options] */
  send(agent, content, options = {}) {
    return this.#request({ type: "send", agent, content }, options);
  }

  /** End an agent. @param {string} agent @param {string} [reason] @param {RequestOptions} [options] */
  terminate(agent, reason, options = {}) {
    return this.#request({ type: "terminate", agent, ...(reason !== undefined && { reason }) }, options);
  }

  /** Ask for a new token and present it on the connection that there is, before the old one expires. */
  async refresh() {
    this.#token = null;
    return this.#request({ type: "hello", token: await this.#getToken() }, { key: null });
  }

  /** Drop the connection, as a network would; it comes back by itself. @param {number} [ms] how long it stays away */
  cut(ms) {
    if (this.state.name === "closed") return;
    this.#comeBackMs = ms;
    this.#onLost(1006, "cut");
  }

  /** End all subscriptions and close the connection. Idempotent. */
  close() {
    this.#end(null);
  }

  /** @param {State} state */
  #setState(state) {
    this.state = state;
    this.#options.onState?.(state);
  }

  async #getToken() {
    const { token } = this.#options;
    this.#token ??= (typeof token === "function" ? await token() : token) ?? null;
    return this.#token;
  }

  async #connect() {
    if (this.state.name === "closed") return;
    const attempt = ++this.#attempt;
    clearTimeout(this.#waiting);
    this.#setState({ name: "connecting" });
    try {
      await this.#getToken();
      if (attempt === this.#attempt) this.#open();
    } catch (error) {
      const isFinal = error instanceof SyntaxError || (error instanceof CommitcastError && !error.retry);
      if (attempt !== this.#attempt) return;
      if (isFinal) this.#end(/** @type {Error} */ (error));
      else this.#onLost(1006, String(error));
    }
  }

  #open() {
    const socket = new this.#WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    socket.onmessage = ({ data }) => socket === this.#socket && this.#onData(data);
    socket.onclose = ({ code, reason }) => socket === this.#socket && this.#onLost(code, reason);
    socket.onerror = () => socket === this.#socket && this.#onLost(1006, "not reached"); // Node 20 sends no close then
    this.#silenceMs = CONNECT_MS;
    this.#heardAt = Date.now();
    this.#watch();
  }

  /** Take silence for a loss: a connection that is gone without a word looks open for minutes. */
  #watch() {
    clearTimeout(this.#watching);
    const left = this.#heardAt + this.#silenceMs - Date.now();
    if (left <= 0) this.#onLost(1006, "silence");
    else this.#watching = setTimeout(() => this.#watch(), left);
  }

  #hurry = () => {
    if (this.state.name === "waiting") this.#connect();
    else if (this.#socket) this.#watch(); // timers stand still while a page sleeps
  };

  /** @param {number} code @param {string} reason */
  #onLost(code, reason) {
    this.#disconnect();
    if ((code === 4001 || code === 4501) && this.#mayRenew) return this.#renew();
    if (code >= 4500 && code <= 4999) {
      const why = reason || `the server closed the connection with ${code}`;
      return this.#end(new CommitcastError(FINAL_CLOSES[code] ?? String(code), why));
    }
    const ms = this.#comeBackMs ?? this.#jitter(this.#failures++);
    this.#comeBackMs = undefined;
    this.#waiting = setTimeout(() => this.#connect(), ms);
    this.#setState({ name: "waiting", ms, reason });
  }

  #disconnect() {
    const socket = this.#socket;
    this.#socket = null;
    this.#attempt++;
    this.#isReady = false;
    for (const timer of [this.#waiting, this.#watching]) clearTimeout(timer);
    for (const subscription of this.#subscriptions.values()) subscription._lost();
    socket?.close();
  }

  /** @param {number} failures */
  #jitter(failures) {
    return this.#random() * Math.min(BACKOFF_MS[1], BACKOFF_MS[0] * 2 ** failures);
  }

  /** @param {Error | null} error */
  #end(error) {
    if (this.state.name === "closed") return;
    this.#disconnect();
    clearTimeout(this.#acking);
    globalThis.removeEventListener?.("online", this.#hurry);
    globalThis.document?.removeEventListener("visibilitychange", this.#hurry);
    this.#setState({ name: "closed", error });
    for (const subscription of this.#subscriptions.values()) error ? subscription._fail(error) : subscription.close();
    for (const id of this.#requests.keys()) this.#settle(id)?.reject(error ?? new CommitcastError("closed", "closed"));
  }

  get #mayRenew() {
    return typeof this.#options.token === "function" && !this.#hasRenewed;
  }

  /** Come back at once with a new token; subscriptions and requests are taken up again as after any loss. */
  #renew() {
    this.#hasRenewed = true;
    this.#token = null;
    this.#disconnect();
    this.#connect();
  }

  /** @param {unknown} data */
  #onData(data) {
    this.#heardAt = Date.now();
    let frame;
    try {
      frame = JSON.parse(/** @type {string} */ (data));
    } catch {
      return this.#end(new CommitcastError("bad_request", `the server sent a message that is not a frame of ${SUBPROTOCOL}`));
    }
    this.#onFrame(frame);
  }

  /** @param {Frame} frame */
  #onFrame(frame) {
    switch (frame.type) {
      case "welcome":
        return this.#onWelcome(frame);
      case "ok":
        return this.#onOk(frame);
      case "error":
        return this.#onError(frame);
      case "heartbeat":
        for (const [agent, head] of Object.entries(frame.heads)) this.#subscriptions.get(agent)?._onHeartbeat(head);
        return;
      case "goodbye":
        this.#comeBackMs = frame.reconnect_ms ?? undefined;
        return;
      case "messages":
      case "live":
        this.#failures = 0;
        this.#hasRenewed = false;
      // falls through
      case "subscribed":
      case "gap":
      case "status":
      case "agent": {
        const isToAll = frame.prev !== undefined && (frame.type === "status" || frame.type === "agent");
        this.#subscriptions.get(isToAll ? ALL : frame.agent)?._take(frame);
      }
    }
  }

  /** @param {Frame} frame */
  #onWelcome(frame) {
    this.#silenceMs = frame.heartbeat_s * 3000;
    this.#watch();
    if (this.#token !== null) {
      this.#helloId = this.#nextId++;
      this.#send({ type: "hello", id: this.#helloId, token: this.#token });
    } else if (frame.needs_hello) {
      this.#end(new CommitcastError("unauthenticated", "the server demands a token: pass one as an option"));
    } else {
      this.#onReady();
    }
  }

  #onReady() {
    this.#isReady = true;
    this.#setState({ name: "open" });
    for (const subscription of [...this.#subscriptions.values()]) this.#begin(subscription);
    for (const request of this.#requests.values()) this.#send(request.frame);
  }

  /** @param {Frame} frame */
  #onOk(frame) {
    if (frame.id === this.#helloId) return this.#isReady || this.#onReady();
    const request = this.#settle(frame.id);
    if (!request) return;
    this.#failures = 0;
    if (request.frame.type !== "hello") this.#hasRenewed = false;
    request.resolve(/** @type {any} */ (frame));
  }

  /** @param {Frame} frame */
  #onError(frame) {
    const error = new CommitcastError(frame.code, frame.message, /** @type {any} */ (frame));
    const asking = [...this.#subscriptions.values()].find((subscription) => subscription._id === frame.id);
    const isAbout = frame.agent ? this.#subscriptions.get(frame.agent) : undefined;
    if (frame.id === this.#helloId && frame.retry && !TOKEN_CODES.has(frame.code)) {
      this.cut(); // too many wrong tokens from this address, which need not have been ours: later
    } else if (frame.id === this.#helloId) {
      this.#mayRenew ? this.#renew() : this.#end(error);
    } else if (TOKEN_CODES.has(frame.code) && (asking || this.#requests.has(frame.id)) && this.#mayRenew) {
      this.#renew();
    } else if (this.#requests.has(frame.id)) {
      if (frame.retry && !TOKEN_CODES.has(frame.code)) this.#repeat(frame.id);
      else this.#settle(frame.id)?.reject(error);
    } else if (asking) {
      const isFinal = TOKEN_CODES.has(frame.code) || !frame.retry;
      isFinal ? asking._fail(error) : this.#again(asking);
    } else if (isAbout && frame.id == null) {
      ENDING_CODES.has(frame.code) ? isAbout._fail(error) : isAbout._take(frame);
    }
  }

  /** @param {Subscription} subscription */
  #begin(subscription) {
    const frame = this.#isReady && subscription._subscribe(this.#nextId++);
    if (frame) this.#send(frame);
  }

  /** Subscribe again, a little later, so that a server that is wrong is not asked without pause.
   * @param {Subscription} subscription */
  #again(subscription) {
    const attempt = this.#attempt;
    subscription._lost();
    setTimeout(() => {
      const isStill = this.#subscriptions.get(subscription.agent) === subscription;
      if (isStill && attempt === this.#attempt) this.#begin(subscription);
    }, this.#jitter(this.#failures++));
  }

  /** @param {Subscription} subscription */
  #forget(subscription) {
    if (this.#subscriptions.get(subscription.agent) !== subscription) return;
    this.#subscriptions.delete(subscription.agent);
    if (this.#isReady) this.#send({ type: "unsubscribe", agent: subscription.agent });
  }

  #ack() {
    this.#acking = undefined;
    const cursors = [...this.#subscriptions.values()].map((from) => /** @type {const} */ ([from.agent, from._ack()]));
    const moved = cursors.filter(([, cursor]) => cursor !== null);
    if (this.#isReady && moved.length > 0) this.#send({ type: "ack", agent: Object.fromEntries(moved) });
  }

  /** @param {Frame} frame @param {RequestOptions | {key: null}} options @returns {Promise<Ok>} */
  #request(frame, { key = newKey(), ...options }) {
    if (this.state.name === "closed") return Promise.reject(new CommitcastError("closed", "this client is closed"));
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const timeoutMs = /** @type {RequestOptions} */ (options).timeoutMs ?? REQUEST_MS;
      const timer = setTimeout(() => {
        const message = `no reply to ${frame.type} within ${timeoutMs} ms: repeat it with the same key`;
        this.#settle(id)?.reject(new CommitcastError("timeout", message, { retry: true, key: key ?? undefined }));
      }, timeoutMs);
      const request = { ...frame, id, ...(key !== null && { key }) };
      this.#requests.set(id, { frame: request, resolve, reject, timer });
      if (this.#isReady) this.#send(request);
    });
  }

  /** @param {number} id */
  #repeat(id) {
    setTimeout(() => {
      const request = this.#requests.get(id);
      if (request && this.#isReady) this.#send(request.frame);
    }, this.#jitter(this.#failures++));
  }

  /** @param {number} id */
  #settle(id) {
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    clearTimeout(request?.timer);
    return request;
  }

  /** @param {Frame} frame */
  #send(frame) {
    if (this.#socket?.readyState === this.#WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }
}

/** 128 random bits; not `randomUUID`, which browsers withhold from pages without TLS. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
