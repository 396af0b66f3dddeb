/**
 * Tuples of 200 bytes per second, and calls per second; a measurement, no test. On a machine that others use, too, what
 * it gives per second of this process's CPU time says more; both ends run in it.
 */
import { Plugin } from "../src/index.js";
import { Script } from "./script.js";

/** Measures what happens from now on; the result says it. */
function measure(what: string): (count: number) => void {
  const began = performance.now();
  const before = process.cpuUsage();
  return (count) => {
    const { user, system } = process.cpuUsage(before);
    const perSecond = Math.round((count * 1000) / (performance.now() - began));
    console.log(`${what}: ${perSecond}/s, ${Math.round((count * 1e6) / (user + system))} per second of CPU time`);
  };
}

async function tuples(count: number, style: "generator" | "output"): Promise<void> {
  const pad = "x".repeat(160);
  const script = await Script.play(
    new Plugin("car").source("source", () =>
      style === "generator"
        ? async function* () {
            for (let n = 1_000_000; ; n++) yield { n, name: "tuple", pad };
          }
        : async (output) => {
            for (let n = 1_000_000; ; n++) await output.send({ n, name: "tuple", pad });
          },
    ),
  );
  const data = await script.start("source");
  const measured = measure(`tuples, ${style}`);
  let bytes = 0;
  for await (const message of data.messages) if ((bytes += message.length) > count * 201) break;
  measured(bytes / 201);
  await script.finish();
}

async function calls(count: number, size: number): Promise<void> {
  const script = await Script.play(new Plugin("car").function("function", ([, text]) => String(text).toUpperCase()));
  const data = await script.start("function");
  const message = JSON.stringify({ context: { ruleId: "rule1" }, timeout: 60_000, calls: Array.from({ length: size }, (_, id) => [id, [7, "text"]]) });
  const measured = measure(`calls, ${size} in a message`);
  let open = 0;
  for (let received = 0; received < count; ) {
    for (; open < size * size; open += size) await data.connection.send(message);
    const done = ((await data.read())["results"] as unknown[]).length;
    received += done;
    open -= done;
  }
  measured(count);
  await script.finish();
}

await tuples(500_000, "generator");
await tuples(500_000, "output");
await calls(300_000, 64);
await calls(10_000, 1);
process.exit(0);
