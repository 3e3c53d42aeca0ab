/** Finds out whether a JSON object or array stands in a text, character by character, and where it ends. Pure. */

/** A longer or deeper value counts as text. */
const CHARS_MAX = 64 * 1024;
const DEPTH_MAX = 64;

type Expected = "value" | "value or end" | "key or end" | "key" | "colon" | "comma or end";

const SPACE = /[ \t\n\r]/;
const LITERALS = new Set(["true", "false", "null"]);
const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

export class JsonRun {
  /** Characters read so far. */
  read = 0;
  /** The brackets that are open: "{" or "[". */
  #open = "";
  #expect: Expected = "value";
  #inString: "no" | "key" | "value" = "no";
  /** Characters of an escape that are still to come. */
  #escape = "";
  /** A number or a word that has begun. */
  #word = "";

  /**
   * Reads on in `text`, which begins with the value.
   * @returns "done": it ended before `read`; "bad": it is no JSON value; "more": the text must go on.
   */
  run(text: string): "done" | "bad" | "more" {
    while (this.read < text.length) {
      if (this.read === CHARS_MAX) return "bad";
      const char = text[this.read] as string;
      const fits = this.#inString === "no" ? this.#step(char) : this.#stringStep(char);
      if (!fits) return "bad";
      this.read++;
      if (this.#open === "") return "done";
    }
    return "more";
  }

  #stringStep(char: string): boolean {
    if (this.#escape !== "") {
      const fits = this.#escape === "\\" ? /["\\/bfnrtu]/.test(char) : /[\da-f]/i.test(char);
      this.#escape = char === "u" ? "0000" : this.#escape.slice(1);
      return fits;
    }
    if (char === "\\") this.#escape = char;
    else if (char === '"') {
      this.#expect = this.#inString === "key" ? "colon" : "comma or end";
      this.#inString = "no";
    } else return char >= " ";
    return true;
  }

  #step(char: string): boolean {
    if (this.#word !== "") {
      if (/[\w.+-]/.test(char)) {
        this.#word += char;
        return this.#word.length <= 64;
      }
      if (!LITERALS.has(this.#word) && !NUMBER.test(this.#word)) return false;
      this.#word = "";
      this.#expect = "comma or end";
    }
    return SPACE.test(char) || this.#token(char);
  }

  #token(char: string): boolean {
    const expect = this.#expect;
    const value = expect === "value" || expect === "value or end";
    switch (char) {
      case "{":
      case "[":
        this.#open += char;
        this.#expect = char === "{" ? "key or end" : "value or end";
        return value && this.#open.length <= DEPTH_MAX;
      case "}":
      case "]": {
        const opener = char === "}" ? "{" : "[";
        const empty = char === "}" ? "key or end" : "value or end";
        if (!this.#open.endsWith(opener) || (expect !== empty && expect !== "comma or end")) return false;
        this.#open = this.#open.slice(0, -1);
        this.#expect = "comma or end";
        return true;
      }
      case '"':
        this.#inString = value ? "value" : "key";
        return value || expect === "key" || expect === "key or end";
      case ":":
        this.#expect = "value";
        return expect === "colon";
      case ",":
        this.#expect = this.#open.endsWith("{") ? "key" : "value";
        return expect === "comma or end";
      default:
        this.#word = char;
        return value && /[-\dtfn]/.test(char);
    }
  }
}

/** A text that is one JSON object and nothing else, fences aside; "" if it is not. A draft in a thought has words around it. */
export function objectAlone(text: string): string {
  const object = text
    .trim()
    .replace(/^```\w*/, "")
    .replace(/```$/, "")
    .trim();
  if (!object.startsWith("{")) return "";
  try {
    JSON.parse(object);
    return object;
  } catch {
    return "";
  }
}
