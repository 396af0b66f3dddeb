/** A plugin that the tests start as a process. */
import { Plugin } from "../src/index.js";

await new Plugin().sink("sink", () => ({ collect: () => {} })).main();
