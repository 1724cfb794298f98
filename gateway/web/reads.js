/** The one-shot HTTP reads, and the token that they may need: kept for this tab, never in a URL. */

const KEPT = `commitcast.token ${location.pathname}`;

/** An answer that is none. */
export class ReadError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Reads relative to the page, so that the page may be served from a folder of another server. */
export class Reads {
  #given = /** @type {string | null} */ (null);
  #asking = /** @type {Promise<string> | null} */ (null);
  #ask;

  /** @param {() => Promise<string>} ask asks the reader for a token */
  constructor(ask) {
    this.#ask = ask;
  }

  /** Whether the reader had to give a token. */
  get hasToken() {
    return sessionStorage.getItem(KEPT) !== null;
  }

  /** Return the token; asked for again with the same one, it was refused. */
  async token() {
    const kept = sessionStorage.getItem(KEPT);
    this.#given = kept === null || kept === this.#given ? await this.#newToken() : kept;
    return this.#given;
  }

  async #newToken() {
    this.#asking ??= this.#ask();
    const token = await this.#asking;
    this.#asking = null;
    sessionStorage.setItem(KEPT, token);
    return token;
  }

  /** @param {string} path @returns {Promise<any>} */
  async get(path) {
    for (;;) {
      const token = sessionStorage.getItem(KEPT);
      const headers = token === null ? undefined : { Authorization: `Bearer ${token}` };
      const answer = await fetch(path, { headers });
      if (answer.status === 401) {
        if (sessionStorage.getItem(KEPT) === token) await this.#newToken(); // else another read got a new one
        continue;
      }
      const body = await answer.json().catch(() => null);
      if (answer.ok) return body;
      throw new ReadError(answer.status, body?.error?.message ?? `the server answered ${answer.status}`);
    }
  }

  /** A page of agents, newest first. @param {{status?: string, after?: number | string | null, limit?: number}} [query] */
  agents({ status = "", after = null, limit = 100 } = {}) {
    const query = new URLSearchParams({ order: "newest", limit: String(limit) });
    if (status) query.set("status", status);
    if (after !== null) query.set("after", String(after));
    return this.get(`v1/agents?${query}`);
  }

  /** @param {string} id */
  agent(id) {
    return this.get(`v1/agents/${encodeURIComponent(id)}`);
  }

  /** A page of messages. @param {string} id @param {number} after @param {number} limit @param {boolean} [raw] */
  messages(id, after, limit, raw = false) {
    const query = `after=${after}&limit=${limit}${raw ? "&raw=true" : ""}`;
    return this.get(`v1/agents/${encodeURIComponent(id)}/messages?${query}`);
  }
}
