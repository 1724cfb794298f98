/** The page: what is selected, how the connection is, the token if one is needed. Puts the other modules together. */

import { Agents } from "./agents.js";
import { Client } from "./client.js";
import { byId, link, number } from "./elements.js";
import { Reads } from "./reads.js";
import { Stream } from "./stream.js";

/** How long the button keeps the connection away: long enough to be seen. */
const AWAY_MS = 2_000;
/** After the last scrolling the address gets the place. */
const PLACE_MS = 300;
/** Between two steps of the count-down. */
const TICK_MS = 100;
const WIDE = matchMedia("(min-width: 46rem)");

const reads = new Reads(askForToken);
await reads.agents({ limit: 1 }).catch(() => {}); // asks for the token, if one is needed
let state = /** @type {import("./client.js").State} */ ({ name: "connecting" });
let waitUntil = 0;
let ticking = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);
let placing = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);

const client = new Client(new URL("v1/ws", document.baseURI), {
  token: reads.hasToken ? () => reads.token() : null,
  onState: (next) => {
    state = next;
    if (next.name === "waiting") waitUntil = Date.now() + next.ms;
    showState();
  },
});
const stream = new Stream(client, reads, { onChange: showState, onMove: keepPlace, onNotice: say });
const agents = new Agents(reads, {
  onHead: (agent, head) => agent === stream.agent && stream.reach(head),
  onChange: () => showPane(),
});

addEventListener("hashchange", () => route());
byId("cut").addEventListener("click", () => client.cut(AWAY_MS));
await agents.read().catch((error) => say(`Could not read the agents: ${error.message}`));
if (!place().agent && agents.newest && WIDE.matches) history.replaceState(null, "", link(agents.newest));
agents.follow(client);
route();

/** What the address says. */
function place() {
  const said = new URLSearchParams(location.hash.slice(1));
  const at = Number(said.get("at"));
  return { agent: said.get("agent"), at: Number.isSafeInteger(at) && at > 0 ? at : null };
}

function route() {
  const { agent, at } = place();
  clearTimeout(placing);
  agents.select(agent);
  document.title = agent ? `${agent} · commitcast` : "commitcast";
  document.body.dataset.pane = agent ? "stream" : "agents";
  if (agent) stream.open(agent, at);
  else stream.close();
  showPane();
  showState();
}

function showPane() {
  const { agent } = place();
  byId("stream").hidden = !agent;
  byId("empty").hidden = !!agent || !agents.isRead || agents.count > 0;
  byId("choose").hidden = !!agent || agents.count === 0;
  document.body.classList.toggle("none", !agent && agents.isRead && agents.count === 0);
}

/** Put the reader's place into the address, so that a reload and a copied link lead back to it.
 * @param {number | null} at */
function keepPlace(at) {
  const { agent } = place();
  clearTimeout(placing);
  placing = setTimeout(() => {
    if (agent && agent === place().agent) history.replaceState(null, "", link(agent, at));
  }, PLACE_MS);
}

function showState() {
  const [name, text] = described();
  const shown = byId("state");
  if (shown.dataset.state !== name) {
    shown.dataset.state = name;
    if (name !== "catching-up") say(text.replace(/ in .*/, ""));
  }
  byId("state-text").textContent = text;
  byId("cut").disabled = state.name !== "open";
}

/** @returns {[string, string]} */
function described() {
  if (state.name === "closed") return ["closed", `closed: ${state.error?.message ?? "for good"}`];
  if (state.name === "waiting") {
    const left = Math.max(0, waitUntil - Date.now());
    clearTimeout(ticking);
    ticking = setTimeout(showState, TICK_MS);
    return ["waiting", `reconnecting in ${left < 10_000 ? (left / 1000).toFixed(1) : Math.round(left / 1000)} s`];
  }
  if (state.name === "connecting") return ["connecting", "connecting"];
  const behind = stream.agent === null ? null : stream.catchingUp;
  if (behind) return ["catching-up", `catching up: ${number(behind.cursor)} of ${number(behind.head)}`];
  return stream.isOver ? ["ended", "ended"] : ["open", "connected"];
}

/** Tell those who listen. @param {string} text */
function say(text) {
  byId("said").textContent = text;
}

/** @returns {Promise<string>} */
function askForToken() {
  const [section, form, text] = [byId("token"), byId("token-form"), byId("token-text")];
  if (reads.hasToken) byId("token-why").textContent = "The token was not accepted, or has expired.";
  document.body.classList.add("locked");
  section.hidden = false;
  text.focus();
  return new Promise((resolve) => {
    form.onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      section.hidden = true;
      document.body.classList.remove("locked");
      resolve(text.value);
      text.value = "";
    };
  });
}
