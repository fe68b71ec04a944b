// Call OpenAI's own client once for each set of parameters in argv, and print what it returns or throws.
import OpenAI from "openai";

const [baseURL, apiKey, calls] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const results = [];
for (const params of JSON.parse(calls)) {
  try {
    const { data, response } = await client.images.generate(params).withResponse();
    results.push({ images: data.data, format: data.output_format, warnings: response.headers.get("x-warnings") });
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    results.push({ kind: error.constructor.name, code: error.code, param: error.param, message: error.message });
  }
}
console.log(JSON.stringify(results));
