/** The plugin {{name}}: a source, a sink and a function. */
import { open } from "node:fs/promises";
import { setTimeout } from "node:timers/promises";
import { Plugin, Tuple, type Sink, type Source, type SourceContext } from "mangrove-sdk";

interface NumbersConfig {
  /** Between two numbers, in milliseconds. */
  interval?: number;
  /** How many; 0: without end. */
  count?: number;
}

/** Counts, and goes on where it was when it is started again. */
function numbers({ interval = 1000, count = 0 }: NumbersConfig, context: SourceContext): Source {
  if (!Number.isInteger(interval) || !Number.isInteger(count)) {
    throw new Error("interval and count are integers");
  }
  const last = typeof context.offset === "number" ? context.offset : 0;
  return async function* () {
    for (let n = last + 1; count === 0 || n <= count; n++) {
      if (interval > 0) {
        await setTimeout(interval, undefined, { signal: context.signal });
      }
      yield new Tuple({ n }, { offset: n });
    }
  };
}

/** Appends each result to a file, as a line of JSON. */
async function lines({ path }: { path?: string }): Promise<Sink> {
  if (typeof path !== "string") {
    throw new Error("path is missing; expected a file");
  }
  const file = await open(path, "a");
  return {
    // The host takes it for safe when this has returned.
    async collect(result) {
      await file.appendFile(JSON.stringify(result) + "\n");
    },
    async close() {
      await file.close();
    },
  };
}

/** A text in capital letters. */
function shout([text]: unknown[]): string {
  if (typeof text !== "string") {
    throw new Error("it takes a text");
  }
  return text.toUpperCase();
}

function oneArgument(args: unknown[]): void {
  if (args.length !== 1) {
    throw new Error("it takes 1 argument");
  }
}

export function plugin(): Plugin {
  return new Plugin("{{name}}")
    .source("{{symbol}}_numbers", numbers)
    .sink("{{symbol}}_lines", lines)
    .function("{{symbol}}_shout", shout, { validate: oneArgument });
}
