/** Plain text out of a text that comes in pieces: what a browser or a terminal would obey is taken out. Part of chat. */

/** A tag that is longer is text. */
const TAG_CHARS_MAX = 500;

/** Takes HTML tags and control characters out of a text that comes in pieces. */
export class PlainText {
  /** What may be the beginning of a tag. */
  #held = "";

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
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a terminal would obey.
      .replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "")
  );
}
