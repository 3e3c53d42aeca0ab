import { expect, test } from "bun:test";
import { keyPress, type TerminalKey } from "../../src/tui/key-press.ts";

const key = (name: string, over: Partial<TerminalKey> = {}): TerminalKey => ({
  ...{ name, sequence: name, ctrl: false, shift: false, meta: false, option: false },
  ...over,
});

test.each([
  ["a letter writes itself", key("a"), { id: "a", text: "a" }],
  ["Shift and a letter are the capital", key("g", { shift: true, sequence: "G" }), { id: "G", text: "G" }],
  ["a capital stays one without Shift", key("G"), { id: "G", text: "G" }],
  ["a sign has no capital", key("?", { shift: true }), { id: "?", text: "?" }],
  [
    "a letter of two code units is one letter",
    key("👍", { sequence: "\x1b[128077u" }),
    { id: "👍", text: "👍" },
  ],
  ["space has its character as its name", key("space", { sequence: " " }), { id: " ", text: " " }],
  ["Enter has one name", key("return", { sequence: "\r" }), { id: "enter", text: null }],
  ["Enter of the number pad is Enter", key("kpenter", { sequence: "\x1bOM" }), { id: "enter", text: null }],
  ["a line feed is Ctrl-J", key("linefeed", { sequence: "\n" }), { id: "ctrl+j", text: null }],
  ["a line feed with Ctrl is no second Ctrl", key("linefeed", { ctrl: true }), { id: "ctrl+j", text: null }],
  [
    "Ctrl and a letter write nothing",
    key("c", { ctrl: true, sequence: "\x03" }),
    { id: "ctrl+c", text: null },
  ],
  [
    "Alt and a letter write nothing",
    key("q", { meta: true, sequence: "\x1bq" }),
    { id: "alt+q", text: null },
  ],
  ["Option is Alt", key("return", { option: true, sequence: "\x1b\r" }), { id: "alt+enter", text: null }],
  ["Shift-Tab", key("tab", { shift: true, sequence: "\x1b[Z" }), { id: "shift+tab", text: null }],
  ["an arrow writes nothing", key("up", { sequence: "\x1b[A" }), { id: "up", text: null }],
  ["a composed character is written", key("compose", { sequence: "ção" }), { id: "compose", text: "ção" }],
])("%s", (_claim, pressed, expected) => {
  expect(keyPress(pressed)).toEqual(expected);
});
