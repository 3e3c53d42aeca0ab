/**
 * Reads the bounds of the product from its sources, for the tables in docs/ARCHITECTURE.md.
 *
 * A bound is a constant whose JSDoc has the tag `@bound WHAT | BEYOND`: what it bounds, and what happens beyond it. A member
 * of a constant object (`LIMITS.depthMax`) can have the tag as well. In Python the comment is `# bound: WHAT | BEYOND`, above
 * the constant or behind it. The value is computed from the source, and its unit comes from the constant's name.
 */
import { posix } from "node:path";
import { type Comment, type Expression, type ObjectExpression, parseSync } from "oxc-parser";

export interface Bound {
  readonly what: string;
  readonly value: number;
  /** As it stands in the source, with its object: `LIMITS.depthMax`. */
  readonly name: string;
  readonly path: string;
  readonly beyond: string;
}

/** The text of a file, by its path from the top of the repository. */
export type ReadSource = (path: string) => string;

/** The tagged constants of a file, in their order. @throws Error for a tag that cannot be read. */
export function boundsOf(path: string, read: ReadSource): Bound[] {
  return path.endsWith(".py") ? pythonBounds(path, read(path)) : typescriptBounds(path, read);
}

function fail(path: string, text: string, offset: number, why: string): never {
  throw new Error(`bounds ${path}:${text.slice(0, offset).split("\n").length}: ${why}`);
}

/** What a tag says: `WHAT | BEYOND`; null if it does not. */
function partsOf(tag: string): Pick<Bound, "what" | "beyond"> | null {
  const [what = "", beyond = "", ...more] = tag.split("|").map((part) => part.trim());
  return what === "" || beyond === "" || more.length > 0 ? null : { what, beyond };
}

const TAG_FORM = "a bound is tagged as WHAT | BEYOND";

// TypeScript

/** A constant, or a member of a constant object, with the offset at which its declaration begins. */
interface Declared {
  readonly start: number;
  readonly name: string;
  readonly init: Expression;
}

interface Module {
  readonly comments: readonly Comment[];
  readonly declared: readonly Declared[];
  readonly constants: ReadonlyMap<string, Expression>;
  /** Local name → where it is from. */
  readonly imports: ReadonlyMap<string, { readonly path: string; readonly name: string }>;
}

/** Without `as const`, `satisfies`, parentheses. */
function bare(node: Expression): Expression {
  let inner = node;
  while (
    inner.type === "TSAsExpression" ||
    inner.type === "TSSatisfiesExpression" ||
    inner.type === "ParenthesizedExpression"
  )
    inner = inner.expression;
  return inner;
}

function membersOf(object: ObjectExpression): { start: number; name: string; init: Expression }[] {
  return object.properties.flatMap((property) =>
    property.type === "Property" && property.key.type === "Identifier"
      ? [{ start: property.start, name: property.key.name, init: property.value }]
      : [],
  );
}

function moduleOf(path: string, text: string): Module {
  const { program, comments, errors } = parseSync(path, text);
  if (errors[0] !== undefined) throw new Error(`bounds ${path}: ${errors[0].message}`);
  const declared: Declared[] = [];
  const constants = new Map<string, Expression>();
  const imports = new Map<string, { path: string; name: string }>();
  for (const statement of program.body) {
    if (statement.type === "ImportDeclaration" && statement.source.value.startsWith(".")) {
      const from = posix.join(posix.dirname(path), statement.source.value);
      for (const specifier of statement.specifiers)
        if (specifier.type === "ImportSpecifier" && specifier.imported.type === "Identifier")
          imports.set(specifier.local.name, { path: from, name: specifier.imported.name });
    }
    const declaration = statement.type === "ExportNamedDeclaration" ? statement.declaration : statement;
    if (declaration?.type !== "VariableDeclaration" || declaration.kind !== "const") continue;
    const [first] = declaration.declarations;
    if (first?.id.type !== "Identifier" || first.init === null) continue;
    const { name } = first.id;
    constants.set(name, first.init);
    declared.push({ start: statement.start, name, init: first.init });
    const inner = bare(first.init);
    if (inner.type !== "ObjectExpression") continue;
    for (const member of membersOf(inner)) declared.push({ ...member, name: `${name}.${member.name}` });
  }
  return { comments, declared, constants, imports };
}

function typescriptBounds(path: string, read: ReadSource): Bound[] {
  const text = read(path);
  const module = moduleOf(path, text);
  return module.comments.flatMap(({ value, start, end }) => {
    const tag = /@bound\b([^@]*)/.exec(value.replaceAll(/\n\s*\*/g, " "))?.[1];
    if (tag === undefined) return [];
    const parts = partsOf(tag.replaceAll(/\s+/g, " "));
    if (parts === null) return fail(path, text, start, TAG_FORM);
    const constant = module.declared.find(
      (entry) => entry.start >= end && text.slice(end, entry.start).trim() === "",
    );
    if (constant === undefined) return fail(path, text, start, "the tag stands above no constant");
    const bound = numberOf(constant.init, module, read);
    if (bound === null) return fail(path, text, constant.start, `${constant.name}: ${UNKNOWN}`);
    return [{ ...parts, name: constant.name, path, value: bound }];
  });
}

const UNKNOWN = "its value cannot be computed from numbers and constants";

/** null: there is something else in it than numbers, constants and the operators below. */
function numberOf(expression: Expression, module: Module, read: ReadSource): number | null {
  const node = bare(expression);
  switch (node.type) {
    case "Literal":
      return typeof node.value === "number" ? node.value : null;
    case "BinaryExpression": {
      if (node.left.type === "PrivateIdentifier") return null;
      const [left, right] = [numberOf(node.left, module, read), numberOf(node.right, module, read)];
      if (left === null || right === null) return null;
      return OPERATIONS[node.operator]?.(left, right) ?? null;
    }
    case "Identifier": {
      const found = constantOf(node.name, module, read);
      return found === null ? null : numberOf(found.init, found.module, read);
    }
    case "MemberExpression": {
      const { object, property } = node;
      if (object.type !== "Identifier" || property.type !== "Identifier") return null;
      const found = constantOf(object.name, module, read);
      if (found === null) return null;
      const inner = bare(found.init);
      if (inner.type !== "ObjectExpression") return null;
      const member = membersOf(inner).find(({ name }) => name === property.name);
      return member === undefined ? null : numberOf(member.init, found.module, read);
    }
    default:
      return null;
  }
}

const OPERATIONS: Readonly<Record<string, (left: number, right: number) => number>> = {
  "+": (left, right) => left + right,
  "-": (left, right) => left - right,
  "*": (left, right) => left * right,
  "/": (left, right) => left / right,
  "**": (left, right) => left ** right,
  "<<": (left, right) => left << right,
};

/** A constant of the module, or of the one that it is imported from. */
function constantOf(
  name: string,
  module: Module,
  read: ReadSource,
): { init: Expression; module: Module } | null {
  const init = module.constants.get(name);
  if (init !== undefined) return { init, module };
  const from = module.imports.get(name);
  if (from === undefined) return null;
  return constantOf(from.name, moduleOf(from.path, read(from.path)), read);
}

// Python

const PYTHON_CONSTANT = /^([A-Z_][A-Z0-9_]*)(?:: \w+)? = ([^#\n]+)/;

/** Expressions of constants are read as TypeScript: numbers, names and the operators above look the same in both. */
function pythonBounds(path: string, text: string): Bound[] {
  const lines = text.split("\n");
  const constants = new Map<string, Expression>();
  for (const line of lines) {
    const [, name, expression] = PYTHON_CONSTANT.exec(line) ?? [];
    if (name === undefined) continue;
    const { program, errors } = parseSync("constant.ts", `(${expression});`);
    const [statement] = program.body;
    if (errors.length === 0 && statement?.type === "ExpressionStatement")
      constants.set(name, statement.expression);
  }
  const module: Module = { comments: [], declared: [], constants, imports: new Map() };
  return lines.flatMap((line, index) => {
    const tag = /(?:^|\s)# bound: (.*)$/.exec(line)?.[1];
    if (tag === undefined) return [];
    const where = `bounds ${path}:${index + 1}`;
    const parts = partsOf(tag);
    if (parts === null) throw new Error(`${where}: ${TAG_FORM}`);
    const name = PYTHON_CONSTANT.exec(line.startsWith("#") ? (lines[index + 1] ?? "") : line)?.[1];
    if (name === undefined) throw new Error(`${where}: the tag stands above no constant`);
    const init = constants.get(name);
    const value = init === undefined ? null : numberOf(init, module, () => "");
    if (value === null) throw new Error(`${where}: ${name}: ${UNKNOWN}`);
    return [{ ...parts, name, path, value }];
  });
}

// The table

const NUMBER = new Intl.NumberFormat("en-GB");

/** `LIMITS.labelCharsMax`, `GROUP_BYTES_MAX` → LABEL, CHARS, MAX; GROUP, BYTES, MAX. */
function wordsOf(name: string): string[] {
  const own = name.slice(name.indexOf(".") + 1);
  const words = /[a-z]/.test(own) ? own.replaceAll(/([A-Z])/g, "_$1").split("_") : own.split("_");
  return words.map((word) => word.toUpperCase());
}

const TO_MS: Readonly<Record<string, (value: number) => number>> = {
  US: (us) => us / 1000,
  MS: (ms) => ms,
  S: (seconds) => seconds * 1000,
  SECONDS: (seconds) => seconds * 1000,
};

/** The value with the unit that the constant's name ends in, or has before MAX: bytes, a time, or what is counted. */
export function boundText({ name, value }: Pick<Bound, "name" | "value">): string {
  const words = wordsOf(name);
  const unit = words.findLast((word) => word in TO_MS || (/S$/.test(word) && !/SS$/.test(word)));
  if (unit === undefined) return NUMBER.format(value);
  const toMs = TO_MS[unit];
  if (toMs !== undefined) return durationText(toMs(value));
  if (unit === "BYTES") return bytesText(value);
  const counted = unit === "CHARS" ? "UTF-16 units" : unit.toLowerCase();
  const per = words.slice(words.lastIndexOf(unit) + 1).join(" ") === "PER SECOND" ? " per second" : "";
  return `${NUMBER.format(value)} ${counted}${per}`;
}

const BYTE_UNITS: Readonly<Record<string, number>> = {
  ...{ bytes: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, MB: 1e6, GB: 1e9 },
};

/** In the unit that gives the smallest whole number. */
function bytesText(bytes: number): string {
  const fitting = Object.entries(BYTE_UNITS).filter(([, unitBytes]) => bytes % unitBytes === 0);
  const [unit, size] = fitting.reduce((best, next) => (next[1] > best[1] ? next : best));
  return `${NUMBER.format(bytes / size)} ${unit}`;
}

const TIME_UNITS = [
  ["days", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1000],
] as const;

function durationText(ms: number): string {
  // A single minute, hour or day reads better in the next smaller unit.
  const whole = TIME_UNITS.find(([unit, unitMs]) => ms % unitMs === 0 && (unit === "s" || ms > unitMs));
  const [unit, size] = whole ?? (ms >= 1000 ? ["s", 1000] : ["ms", 1]);
  return `${NUMBER.format(ms / size)} ${unit}`;
}

/** The rooms in the order in which an event meets them; others come after these. */
const ROOMS = [
  ...["event", "http", "journal", "pipeline", "embed", "nearest", "brain", "llm", "schemas", "ring", "store"],
  ...["config", "start"],
];

/** Rows of a table with a row for each bound, in the order of the rooms. Empty if there are no bounds. */
export function boundsTable(bounds: readonly Bound[]): string {
  if (bounds.length === 0) return "";
  const rank = ({ path }: Bound): number => {
    const at = ROOMS.indexOf(path.split("/")[1] ?? "");
    return at < 0 ? ROOMS.length + (path.endsWith(".py") ? 1 : 0) : at;
  };
  const rows = bounds
    .toSorted((a, b) => rank(a) - rank(b) || (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
    .map((bound) => {
      const { what, name, path, beyond } = bound;
      return `| ${what} | ${boundText(bound)} | \`${name}\` in \`${path}\` | ${beyond} |\n`;
    });
  return `| what | bound | name | beyond |\n|---|---|---|---|\n${rows.join("")}`;
}

/** Whether a bound belongs to the dashboard, which has a table of its own. */
export function isOfDashboard({ path }: Pick<Bound, "path">): boolean {
  return path === "tui.ts" || /^src\/(dashboard|tui)\//.test(path);
}
