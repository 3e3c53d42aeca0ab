/** Tells keys that are data, such as ids and dates, from names of fields. Part of the schemas. */

/** Only digits and what stands between them: an index, a date, a time, a telephone number, an address, a range. */
const DIGITS_AND_MARKS = /^[+(-]?\d[\d\s.,:/()+-]*$/;
const DATE_TIME = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?$/i;
/** 5511987654321@s.whatsapp.net, ana@example.com. In "@type" and "@id" nothing stands before the sign. */
const AT_ADDRESS = /^[^@\s]+@[\w.:-]+$/;
const UUID = /^(?:[\w]{1,16}[-_:])?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const HEX = /^(?:0x|sha\d{1,3}[:-]|md5[:-])?[0-9a-f]{12,}$/i;
/** No word has so many digits in a row. */
const LONG_NUMBER = /\d{6}/;
/** ULIDs, KSUIDs and the like: letters between digits, and no sign between words. */
const TOKEN = /^(?=.*\d[A-Za-z]+\d)[A-Za-z0-9]{16,}$/;
/** cus_NffrFeUfNV2Hib, -NabcDEF12ghiJKLmnop. */
const PREFIXED_TOKEN = /^(?:[A-Za-z]{1,8}_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{12,}|-[\w-]{19})$/;
/** A token has at least so many digits. */
const TOKEN_DIGITS_MIN = 3;

/**
 * Whether a key of at most 64 characters is data whatever stands beside it. Then it is not learned under its name, so that
 * a byte array written as {"0":255,"1":216} or a table by id is one field. A key such as `line2` is a name.
 */
export function isDataKey(key: string): boolean {
  let digits = 0;
  let at = false;
  for (let index = 0; index < key.length; index++) {
    const code = key.charCodeAt(index);
    if (code >= 48 && code <= 57) digits++;
    else if (code === 64) at = true;
  }
  if (digits === key.length) return digits > 0;
  if (at && AT_ADDRESS.test(key)) return true;
  if (digits === 0) return false;
  if (DIGITS_AND_MARKS.test(key) || LONG_NUMBER.test(key) || DATE_TIME.test(key)) return true;
  if (UUID.test(key) || HEX.test(key)) return true;
  return digits >= TOKEN_DIGITS_MIN ? TOKEN.test(key) || PREFIXED_TOKEN.test(key) : PREFIXED_TOKEN.test(key);
}

/** The same for all keys that differ only in their numbers, like `u-17` and `u-18`; null: the key has no number. */
export function shapeOf(key: string): string | null {
  const shape = key.replaceAll(/\d+/g, "0");
  return shape === key && !key.includes("0") ? null : shape;
}
