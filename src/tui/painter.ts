/** Puts the operations of a screen into OpenTUI's buffer, in the terminal's own colours. */
import type { Op, Style } from "./screen.ts";

type OpenTui = typeof import("../native/opentui.ts");
type Color = InstanceType<OpenTui["RGBA"]>;
export type Surface = Parameters<
  Parameters<Awaited<ReturnType<OpenTui["createCliRenderer"]>>["addPostProcessFn"]>[0]
>[0];

export class Painter {
  readonly #tui: OpenTui;
  readonly #noColor: boolean;
  readonly #background: Color;
  /** By place in the palette; null is the terminal's default. */
  readonly #colors = new Map<number | null, Color>();

  constructor(tui: OpenTui, noColor: boolean) {
    this.#tui = tui;
    this.#noColor = noColor;
    this.#background = tui.RGBA.defaultBackground();
  }

  paint(surface: Surface, ops: readonly Op[]): void {
    for (const { x, y, text, style } of ops)
      surface.drawText(text, x, y, this.#color(style), this.#background, this.#attributes(style));
  }

  #color({ color }: Style): Color {
    const wanted = this.#noColor ? null : color;
    let found = this.#colors.get(wanted);
    if (found === undefined) {
      const { RGBA } = this.#tui;
      found = wanted === null ? RGBA.defaultForeground() : RGBA.fromIndex(wanted);
      this.#colors.set(wanted, found);
    }
    return found;
  }

  #attributes({ bold, dim, inverse, underline }: Style): number {
    const { BOLD, DIM, INVERSE, UNDERLINE } = this.#tui.TextAttributes;
    return (bold ? BOLD : 0) | (dim ? DIM : 0) | (inverse ? INVERSE : 0) | (underline ? UNDERLINE : 0);
  }
}
