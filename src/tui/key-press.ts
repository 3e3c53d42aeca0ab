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

/** OpenTUI's key under the name that the table knows, and the text that it would write. */
export function keyPress(key: TerminalKey): KeyPress {
  const alt = key.meta || key.option;
  const name = NAMES[key.name] ?? key.name;
  // Of one letter the letter itself says whether Shift was held, whatever the terminal's protocol.
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
