// Follows agents with client.js as the conformance suite wishes. Usage: conformance.mjs CLIENT, then on standard input,
// line by line: {"follow": {"url", "given"}}, {"take": true}, {"standing": true}, {"close": true}. Each is answered by
// one line, in order; a `take` waits for a message, or for the end.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { Client } = await import(pathToFileURL(process.argv[2]).href);
let client, subscription, turn;

function follow({ url, given }) {
  const { agent, token, tokens, ...options } = given;
  client = new Client(url, { random: () => 0.01, token: tokens ? () => tokens.shift() : token });
  turn = Promise.resolve();
  try {
    subscription = client.subscribe(agent, options);
  } catch (error) {
    return { error: error.code };
  }
  return {};
}

async function take() {
  try {
    const { value, done } = await subscription.next();
    return done ? { end: true } : { item: value };
  } catch (error) {
    return { error: error.code ?? String(error) };
  }
}

function standing() {
  const { cursor, epoch, status } = subscription;
  return { cursor, epoch, status };
}

const does = { follow, take, standing, close: () => (client.close(), {}) };

for await (const line of createInterface({ input: process.stdin })) {
  const [[name, value]] = Object.entries(JSON.parse(line));
  const answer = does[name](value);
  turn = turn.then(() => answer).then((said) => process.stdout.write(JSON.stringify(said) + "\n"));
}
