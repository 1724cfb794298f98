// Runs a test's script against a copy of client.js. Usage: harness.mjs CLIENT URL SCRIPT
// The script has `client`, `connect(options)`, `say(value)`, which prints it as a line of JSON, and `heard()`, which
// waits for a line from the test.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [path, url, script] = process.argv.slice(2);
const { Client, CommitcastError } = await import(pathToFileURL(path).href);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const heard = async () => (await lines.next()).value;
const connect = (options) => new Client(url, { random: () => 0.01, ...options });
const Script = (async () => {}).constructor;
const names = { Client, CommitcastError, connect, url, say, heard };

try {
  await new Script(...Object.keys(names), script)(...Object.values(names));
} catch (error) {
  say({ error: error.code ?? String(error), message: error.message });
}
process.exit();
