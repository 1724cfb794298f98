/** Making elements, and saying numbers and times. What comes from an agent is text everywhere, never markup. */

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const NUMBER = new Intl.NumberFormat("en");
/** @param {number} value */
export const number = (value) => NUMBER.format(value);

/** @param {number} count @param {string} noun */
export const many = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** The time of day, with the day before it if that is not today. @param {string} at */
export function time(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return at;
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? TIME.format(date) : `${DAY.format(date)} ${TIME.format(date)}`;
}

const SIGNS = { initializing: "○", running: "●", completed: "✓", failed: "✕", terminated: "■" };

/** Show a status by sign, word and colour. @param {Element} element @param {string} status */
export function showStatus(element, status) {
  if (element.getAttribute("data-status") === status) return;
  element.setAttribute("data-status", status);
  const sign = make("i", { "aria-hidden": "true" }, SIGNS[/** @type {keyof typeof SIGNS} */ (status)] ?? "?");
  element.replaceChildren(sign, ` ${status}`);
}

/** The place of a message as a link. @param {string} agent @param {number | null} [at] */
export const link = (agent, at = null) => `#agent=${encodeURIComponent(agent)}${at === null ? "" : `&at=${at}`}`;
