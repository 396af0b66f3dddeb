import { setTimeout as pause } from "node:timers/promises";
import type { CallContext } from "mangrove-sdk";

export function oneArgument(args: unknown[]): void {
  if (args.length !== 1) throw new Error("echo takes 1 argument");
}

/** Its argument. */
export function echo(args: unknown[]): unknown {
  oneArgument(args);
  return args[0];
}

/** Its second argument, after as many milliseconds as its first says. */
export async function slow([milliseconds, value]: unknown[], context: CallContext): Promise<unknown> {
  await pause(Number(milliseconds), undefined, { signal: context.signal });
  return value;
}

/** Fails with the text it is given, in an unexpected way when that is "panic". */
export function fail([text]: unknown[]): never {
  if (text === "panic") (undefined as unknown as () => void)();
  throw new Error(String(text));
}

/** The sum of a column's numbers. */
export function total([column]: unknown[]): number {
  if (!Array.isArray(column)) throw new Error("total takes a column");
  return column.reduce((sum: number, value) => (typeof value === "number" ? sum + value : sum), 0);
}

/** Counts how often it was called with a key, in each rule. */
export async function tally([key]: unknown[], context: CallContext): Promise<number> {
  return context.state.add(String(key));
}
