/** Words the turns of a question. The caller supplies the instructions and the data. */

/** The user's turn. The data stands in one JSON string, which no quote and no line break can leave. */
export function dataTurn(data: string): string {
  return `The data:\n${JSON.stringify(data)}`;
}

/** The instructions for a model that refuses a schema beside the messages. */
export function systemWithSchema(system: string, jsonSchema: object): string {
  return `${system}\nIts JSON Schema: ${JSON.stringify(jsonSchema)}`;
}

/** The user's turn after a useless reply. */
export function correction(why: string): string {
  return `That cannot be used: ${why}. Answer again, for the same data and by the same rules, with the JSON object alone.`;
}
