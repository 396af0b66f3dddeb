#!/usr/bin/env node
/** The program: the plugin {{name}} and its life with the host. */
import { plugin } from "./plugin.js";

await plugin().main();
