/** A key as OpenTUI reports it, translated to the name that the table of keys uses. */
import type { KeyPress } from "./model.ts";

/** What OpenTUI reports about a key. */
export interface TerminalKey {
  readonly name: string;
  readonly sequence: string;
  readonly ctrl: boolean;
  readonly shift: boolean;
  readonly meta: boolean;
  readonly option: boolean;
}

const NAMES: Readonly<Record<string, string>> = {
  return: "enter",
  kpenter: "enter",
  linefeed: "ctrl+j",
  esc: "escape",
};

/** OpenTUI's key under its name in the table of keys, with the text that it writes into an input. */
export function keyPress(key: TerminalKey): KeyPress {
  const alt = key.meta || key.option;
  const name = NAMES[key.name] ?? key.name;
  // Terminals report Shift and a letter in different ways; the capital letter is the same in all of them.
  const letter = [...name].length === 1;
  if (letter && !key.ctrl && !alt) {
    const text = key.shift && name.toUpperCase() !== name ? name.toUpperCase() : name;
    return { id: text, text };
  }
  if (name === "space") return { id: " ", text: " " };
  const id = `${key.ctrl && !name.startsWith("ctrl+") ? "ctrl+" : ""}${alt ? "alt+" : ""}${key.shift ? "shift+" : ""}${name}`;
  const plain = !key.ctrl && !alt && !/[\p{C}]/u.test(key.sequence);
  return {
    id,
    text:
      plain && name.length > 1 && key.sequence.length > 0 && !key.sequence.startsWith("\x1b")
        ? key.sequence
        : null,
  };
}
