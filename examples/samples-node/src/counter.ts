import { setTimeout as pause } from "node:timers/promises";
import { Tuple, type RunSource, type SourceContext } from "mangrove-sdk";

interface CounterConfig {
  /** How many tuples; 0: endless. */
  count?: number;
  /** Milliseconds between two of them; 0: as fast as possible. */
  interval?: number;
  /** Of the padding, in bytes. */
  size?: number;
  /** The tuple in whose place an error is reported; 0: none. */
  fail_at?: number;
}

/** Counts, and after a restart goes on where it was. */
export function openCounter(config: CounterConfig, context: SourceContext): RunSource {
  const { count = 0, interval = 0, size = 0, fail_at = 0 } = config;
  for (const [name, value] of Object.entries({ count, interval, size, fail_at })) {
    if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${name}: expected an unsigned integer, not ${JSON.stringify(value)}`);
  }
  const last = context.offset ?? 0;
  if (!Number.isSafeInteger(last)) throw new Error(`offset: expected an integer, not ${JSON.stringify(last)}`);
  const meta = { source: context.dataSource };
  const pad = "x".repeat(size);

  return async function* (output) {
    for (let n = (last as number) + 1; count === 0 || n <= count; n++) {
      if (interval > 0) await pause(interval, undefined, { signal: context.signal });
      if (n === fail_at) await output.report(`told to fail at ${n}`);
      else yield new Tuple({ n, pid: process.pid, pad }, { meta, offset: n });
    }
  };
}
