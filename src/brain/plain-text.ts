/** Makes plain text of a text that comes in pieces: removes what a browser or a terminal would obey. Part of chat. */

/** A longer tag counts as text. */
const TAG_CHARS_MAX = 500;

/** Removes HTML tags and control characters, also those that are cut into pieces. */
export class PlainText {
  /** Held back, because it may be the beginning of a tag. */
  #held = "";

  /** @returns what is safe to show by now. */
  push(piece: string): string {
    const text = this.#held + piece;
    this.#held = "";
    const open = text.lastIndexOf("<");
    const unfinished =
      open >= 0 && text.length - open <= TAG_CHARS_MAX && /^<(?:[a-z/!][^>]*)?$/i.test(text.slice(open));
    if (!unfinished) return clean(text);
    this.#held = text.slice(open);
    return clean(text.slice(0, open));
  }

  /** @returns what was held back and did not become a tag. */
  end(): string {
    const text = this.#held;
    this.#held = "";
    return clean(text);
  }
}

function clean(text: string): string {
  return (
    text
      .replaceAll(/<[a-z/!][^>]*>/gi, "")
      // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal would obey them.
      .replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "")
  );
}
