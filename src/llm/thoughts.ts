/**
 * Tells a model's thoughts from its answer, in a text that may arrive in pieces. The result does not depend on where the
 * pieces are cut.
 *
 * The rules, for marks.ts's marks:
 *
 * 1. A mark whose name is about thinking opens or closes a thought wherever it stands. Thoughts nest; a mark that is doubled
 *    counts once.
 * 2. A closing mark without its opening mark makes a thought of everything before it: the server's chat template opened
 *    it. The channel of the answer does the same.
 * 3. A thought without its closing mark lasts to the end.
 * 4. A mark with an unknown name opens a thought if nothing was said before it: `<ponder>`, `[REFLECT]`. An unknown token
 *    such as `<|mind|>` also does later, if it is closed. Names of HTML, BBCode and Markdown and names such as `answer`
 *    never do, so that what an assistant writes on purpose is shown. An unknown `[NOTE]` without its end is text, unless
 *    the reply is cut off.
 * 5. Marks in a JSON object or array, and marks in back quotes, are text.
 */
import { JsonRun, objectAlone } from "./json-run.ts";
import { MARK_BEGINS, type Mark, markAt } from "./marks.ts";

/** Characters that are kept of an answer that is held back, and of a thought. */
const KEPT_CHARS_MAX = 64 * 1024;
/** Characters of JSON that are read in one text, so that its time has a bound however the brackets are nested. */
const JSON_CHARS_MAX = 1024 * 1024;
/** Names of unknown tags that are remembered. */
const TAGS_MAX = 64;
const EATEN_WORDS = ["analysis", "commentary"];
const CHANNELS: ReadonlySet<string> = new Set(["channel", "eaten"]);

interface Open {
  readonly name: string;
  readonly shape: string;
  readonly sure: boolean;
  /** Text that counts as said if the thought is never closed; null: it is a thought then, too. */
  readonly otherwise: string | null;
  /** Whether something had been said before it. */
  readonly late?: boolean;
}

interface Rules {
  /**
   * hold: nothing is returned before the end, so that rule 2 holds for the whole text. pass: text is returned at once,
   * and what was returned stays, for a model that is known to open its thoughts.
   */
  readonly mode: "hold" | "pass";
  /**
   * Where a mark with an unknown name opens a thought. start: as rule 4 says, for text that people read. anywhere: if it is
   * closed, for text in which an object is wanted; there a thought that is one object and nothing else counts as said.
   */
  readonly unknown?: "start" | "anywhere" | "nowhere";
}

export class Thoughts {
  readonly #mode: Rules["mode"];
  readonly #unknown: "start" | "anywhere" | "nowhere";
  #pending = "";
  /** The last character before `#pending`. */
  #before = "";
  #json: JsonRun | null = null;
  #jsonLeft = JSON_CHARS_MAX;
  /** The thoughts that are open, the outermost first. */
  #open: Open[] = [];
  /** Whether nothing but white space came since the last mark that opened or closed a thought. */
  #bare = true;
  /** Whether anything but white space came at all, marks included. */
  #begun = false;
  #said = "";
  /** Whether `#said`, or what was returned instead of it, is only white space. */
  #silent = true;
  #out = "";
  /** The text of the open thought, without marks. */
  #thought = "";
  /** The same with its marks, from behind the first one. */
  #raw = "";
  /** Tags that were opened in the answer, so that their ends are theirs. <details> may also be HTML. */
  readonly #tags = new Set(["details"]);
  /** Whether a thought ended that had not begun: the chat template opens it. */
  orphan = false;
  /** The text of thoughts without beginning, end or known name: a grammar can force an answer into it. */
  doubtful = "";

  constructor({ mode, unknown = "start" }: Rules) {
    this.#mode = mode;
    this.#unknown = unknown;
  }

  /** @returns the text that may be shown by now. */
  push(piece: string): string {
    this.#pending += piece;
    this.#read(false);
    return this.#taken();
  }

  /**
   * The text is complete.
   * @param o.cut whether it stops at a limit: then an unknown mark may only lack its end.
   * @returns the rest that may be shown.
   */
  end({ cut }: { cut: boolean }): string {
    this.#read(true);
    const [outermost] = this.#open;
    if (outermost !== undefined) this.#endOpen(outermost, cut);
    this.#out += this.#said;
    this.#said = "";
    return this.#taken();
  }

  #endOpen({ name, otherwise, late = false }: Open, cut: boolean): void {
    this.#open = [];
    const wanted = late && this.#unknown === "anywhere";
    // In "analysisThe user …" the marks around the channel's name were eaten; "analysis of" is a sentence.
    const thought = name === "eaten" ? /^[A-Z{<"]/.test(this.#raw) : cut && !wanted;
    if (otherwise === null || thought) {
      this.doubtful += this.#thought;
      return;
    }
    const rest = new Thoughts({ mode: "hold", unknown: "nowhere" });
    rest.#begun = true;
    rest.push(otherwise + this.#raw);
    this.#say(rest.end({ cut }));
    this.doubtful += rest.doubtful;
  }

  #taken(): string {
    const out = this.#out;
    this.#out = "";
    return out;
  }

  /** Reads `#pending` as far as it is clear. */
  #read(ended: boolean): void {
    const text = this.#pending;
    let at = 0;
    while (at < text.length) {
      const end = this.#step(text, at, ended);
      if (end === at) break;
      if (this.#open.length === 0) this.#raw = "";
      this.#before = text[end - 1] as string;
      at = end;
    }
    this.#pending = text.slice(at);
  }

  /** Takes one mark, one JSON value or some text. @returns where it ends; `at`: more text is needed. */
  #step(text: string, at: number, ended: boolean): number {
    if (!this.#begun) {
      const end = this.#begin(text, at, ended);
      if (end !== null) return end;
    }
    const json = this.#jsonAt(text, at, ended);
    if (json !== null) return json;
    const lexed = markAt(text, at, { before: this.#before, ended });
    if (lexed === "more") return at;
    if (lexed !== "text") {
      const raw = text.slice(at, lexed.end);
      if (this.#apply(lexed.mark, raw)) {
        if (this.#open.length > 1 || lexed.mark.kind !== "open") this.#keepRaw(raw);
        return lexed.end;
      }
      this.#text(raw);
      return lexed.end;
    }
    MARK_BEGINS.lastIndex = at + 1;
    let next = MARK_BEGINS.exec(text)?.index ?? text.length;
    const brace = this.#open.length === 0 ? text.indexOf("{", at + 1) : -1;
    if (brace >= 0 && brace < next) next = brace;
    this.#text(text.slice(at, next));
    return next;
  }

  /** White space, or the name of a channel whose marks were eaten. @returns null: neither. */
  #begin(text: string, at: number, ended: boolean): number | null {
    const space = /^\s+/.exec(text.slice(at, at + 4096));
    if (space !== null) {
      this.#text(space[0]);
      return at + space[0].length;
    }
    const rest = text.slice(at, at + 10);
    for (const word of EATEN_WORDS) {
      if (rest.startsWith(word)) {
        this.#begun = true;
        this.#push({ name: "eaten", shape: "token", sure: false, otherwise: word });
        return at + word.length;
      }
      if (!ended && word.startsWith(rest)) return at;
    }
    this.#begun = true;
    return null;
  }

  /** A JSON value of the answer, whose marks are text. @returns null: none begins here. */
  #jsonAt(text: string, at: number, ended: boolean): number | null {
    if (this.#open.length > 0 || !(text[at] === "{" || text[at] === "[") || this.#jsonLeft <= 0) return null;
    const run = this.#json ?? new JsonRun();
    const before = run.read;
    const found = run.run(text.slice(at));
    this.#jsonLeft -= run.read - before + (this.#json === null ? 1 : 0);
    this.#json = null;
    if (found === "more" && !ended) {
      this.#json = run;
      return at;
    }
    if (found !== "done") {
      if (text[at] === "[") return null;
      this.#text("{");
      return at + 1;
    }
    this.#text(text.slice(at, at + run.read));
    return at + run.read;
  }

  /** @returns false: here it is text. */
  #apply(mark: Mark, raw: string): boolean {
    switch (mark.kind) {
      case "open":
        return mark.sure ? this.#openSure(mark.name, mark.shape) : this.#openUnknown(mark, raw);
      case "close":
        return mark.sure ? this.#closeSure(mark.name) : this.#closeUnknown(mark.name, mark.shape);
      case "channel":
        if (this.#inTag()) return false;
        this.#open = [];
        this.#push({ name: "channel", shape: "token", sure: true, otherwise: null });
        return true;
      case "final":
        if (this.#inTag()) return false;
        this.#restart();
        return true;
      case "end":
        if (this.#inTag()) return false;
        if (CHANNELS.has(this.#open[0]?.name ?? "")) this.#closeTo(0);
        return true;
      case "channel sentence":
        return this.#open.length === 0 && this.#silent && this.#apply({ kind: "channel" }, raw);
      case "end sentence":
        if (this.#open[0]?.name !== "channel") return false;
        this.#closeTo(0);
        return true;
      case "noise":
        return true;
    }
  }

  /** Whether a thought is open that was opened by a tag: the tokens of channels are text in it. */
  #inTag(): boolean {
    return this.#open.some(({ name, sure }) => sure && name !== "channel");
  }

  #openSure(name: string, shape: string): boolean {
    const doubled = this.#bare && this.#open.at(-1)?.name === name;
    if (!doubled) this.#push({ name, shape, sure: true, otherwise: null });
    return true;
  }

  #openUnknown({ name, shape }: { name: string; shape: string }, raw: string): boolean {
    if (this.#open.length > 0) return false;
    const anywhere = shape === "token" || this.#unknown === "anywhere";
    if (this.#unknown === "nowhere" || (!anywhere && !this.#silent)) {
      if (this.#tags.size < TAGS_MAX) this.#tags.add(name);
      return shape === "token";
    }
    const late = !this.#silent;
    const text = shape === "token" ? "" : raw;
    this.#push({ name, shape, sure: false, otherwise: late || shape === "bracket" ? text : null, late });
    return true;
  }

  #closeSure(name: string): boolean {
    const index = this.#open.findLastIndex((open) => open.name === name);
    if (index >= 0) this.#closeTo(index);
    else if (this.#open.some(({ sure }) => sure)) return false;
    else if (this.#open.length > 0 || !this.#bare) this.#orphaned();
    return true;
  }

  #closeUnknown(name: string, shape: string): boolean {
    const index = this.#open.findLastIndex((open) => open.name === name && open.shape === shape);
    if (index >= 0) this.#closeTo(index);
    else if (this.#open.length > 0) return false;
    else if (this.#bare) return true;
    else if (this.#unknown === "nowhere" || this.#tags.has(name)) return shape === "token";
    else if (!this.#silent) this.#orphaned();
    return true;
  }

  #push(open: Open): void {
    if (this.#open.length === 0) {
      this.#thought = "";
      this.#raw = "";
    }
    this.#open.push(open);
    this.#bare = true;
  }

  #closeTo(index: number): void {
    const outermost = index === 0 ? this.#open[0] : undefined;
    this.#open.length = index;
    this.#bare = true;
    if (outermost?.sure !== false) return;
    const answer =
      outermost.late === true && this.#unknown === "anywhere" && objectAlone(this.#thought) !== "";
    if (answer) this.#say(this.#thought);
    else this.doubtful += this.#thought;
  }

  /** Everything before was a thought. */
  #orphaned(): void {
    this.orphan = true;
    this.#restart();
  }

  #restart(): void {
    if (!this.#silent) this.orphan = true;
    this.doubtful = this.#said + (this.#open.length > 0 ? this.#thought : "");
    this.#said = "";
    this.#silent = true;
    this.#open = [];
    this.#bare = true;
  }

  #text(text: string): void {
    const blank = text.trim() === "";
    if (!blank) this.#bare = false;
    if (this.#open.length === 0) this.#say(text);
    else {
      this.#thought = kept(this.#thought, text);
      this.#keepRaw(text);
    }
  }

  #keepRaw(text: string): void {
    if (this.#open.length > 0) this.#raw = kept(this.#raw, text);
  }

  #say(text: string): void {
    if (text.trim() !== "") this.#silent = false;
    if (this.#mode === "pass") this.#out += text;
    else this.#said = kept(this.#said, text);
  }
}

function kept(before: string, more: string): string {
  const leftChars = KEPT_CHARS_MAX - before.length;
  return leftChars <= 0 ? before : before + (more.length > leftChars ? more.slice(0, leftChars) : more);
}
