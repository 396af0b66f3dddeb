#!/usr/bin/env node
// What the host starts; the program is built from src/main.ts.
import "./dist/src/main.js";
