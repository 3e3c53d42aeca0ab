/** Who may call: anyone who has the token; without a token, the programs of this machine but no web page. */
import { timingSafeEqual } from "node:crypto";
import { isIP } from "node:net";
import { hostname } from "node:os";
import type { Config } from "../config/config.ts";
import type { Refused } from "./contract.ts";

export interface AccessOptions {
  readonly config: Pick<Config, "host" | "token" | "insecure">;
  /** Whether a host's name or address is this machine's loopback. */
  readonly isLoopback: (host: string) => boolean;
}

/** Why a request is refused; null if it is allowed. */
export type Guard = (headers: Headers) => Refused | null;

/** The guard before every route, chosen once from the configuration. */
export function guardOf(options: AccessOptions): Guard {
  const { token } = options.config;
  return token === null ? hostGuard(options) : tokenGuard(token);
}

function sha256(bytes: Uint8Array): Uint8Array {
  return Bun.SHA256.hash(bytes) as Uint8Array;
}

/** Compares digests in constant time, so that response times reveal neither the token's length nor its beginning. */
function tokenGuard(token: string): Guard {
  const expected = sha256(Buffer.from(token));
  const hint = "send the header Authorization: Bearer TOKEN";
  return (headers) => {
    const value = headers.get("authorization");
    if (value === null) return { code: "unauthorized", detail: "the request has no token", hint };
    if (!/^bearer /i.test(value))
      return { code: "unauthorized", detail: "the Authorization header has no bearer token", hint };
    // Bun decodes header values as Latin-1; encoding them again gives the bytes that were sent.
    const given = sha256(Buffer.from(value.slice("bearer ".length).trim(), "latin1"));
    return timingSafeEqual(given, expected)
      ? null
      : { code: "unauthorized", detail: "the token is wrong", hint };
  };
}

/** The name in a Host header in lower case, without port and brackets; null if the header is malformed. */
function hostName(host: string): string | null {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^\s:/@[\]]+))(?::\d{1,5})?$/i.exec(host);
  return (match?.[1] ?? match?.[2])?.toLowerCase() ?? null;
}

/**
 * Why a request comes from a foreign web page; null if it does not seem to. Browsers send an Origin with most requests
 * across origins, but not with an image, a script or a link: there, Sec-Fetch-Site tells where the page came from, and in
 * older browsers the Referer does. Programs send none of the three.
 */
function foreignPage(headers: Headers, host: string): string | null {
  const own = `http://${host.toLowerCase()}`;
  const origin = headers.get("origin");
  if (origin !== null && origin.toLowerCase() !== own)
    return `the Origin ${JSON.stringify(origin)} is not the gateway's own`;
  const site = headers.get("sec-fetch-site");
  if (site === "same-origin" || site === "none") return null;
  if (site !== null) return `the request was made by a page of another origin (Sec-Fetch-Site: ${site})`;
  const referer = headers.get("referer");
  if (referer === null || origin !== null) return null;
  return `${referer.toLowerCase()}/`.startsWith(`${own}/`)
    ? null
    : `the Referer ${JSON.stringify(referer)} is not the gateway's own page`;
}

/**
 * Without a token, a web page in the user's browser must not reach the gateway. The check of the Host stops a page whose
 * own name resolves to this machine (DNS rebinding). {@link foreignPage} stops requests across origins.
 */
function hostGuard({ config, isLoopback }: AccessOptions): Guard {
  const configured = config.host.toLowerCase();
  const wildcard = configured === "0.0.0.0" || configured === "::";
  const isAllowed = (name: string): boolean => {
    if (isLoopback(name)) return true;
    if (!config.insecure) return false;
    // A page can let its own name point to this machine. It cannot do that with an address.
    return name === configured || (wildcard && (isIP(name) !== 0 || name === hostname().toLowerCase()));
  };
  // The Host that was checked last: clients send the same one with every request.
  let knownHost: string | null = null;
  return (headers) => {
    const host = headers.get("host") ?? "";
    if (host !== knownHost) {
      const name = hostName(host);
      if (name === null || !isAllowed(name)) {
        return {
          code: "forbidden_host",
          detail: `the Host ${JSON.stringify(host)} does not name this machine's loopback`,
          hint: "use localhost, or start the gateway with a token (GATEWAY_TOKEN or --token-file)",
        };
      }
      knownHost = host;
    }
    const detail = foreignPage(headers, host);
    if (detail === null) return null;
    const hint = "web pages of other origins need a gateway with a token (GATEWAY_TOKEN or --token-file)";
    return { code: "forbidden_origin", detail, hint };
  };
}
