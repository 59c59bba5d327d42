// Measures JSON.parse and ajv's validate for the schema table. It reads one JSON
// value per line and answers each with one: first {"cases":[{"schema":…,
// "accept":"…","refuse":"…"}]}, then {"case":0,"refuse":false,"runs":1000}.
'use strict'
const Ajv = require('ajv/dist/2020')
const addFormats = require('ajv-formats')
const readline = require('readline')

const ajv = new Ajv({ strict: false })
addFormats(ajv)
let cases

function answer(line) {
  const q = JSON.parse(line)
  if (q.cases) {
    cases = q.cases.map(c => ({ ...c, validate: ajv.compile(c.schema) }))
    for (const c of cases) {
      if (!c.validate(JSON.parse(c.accept))) return { error: `${c.name}: ${JSON.stringify(c.validate.errors)}` }
      if (c.validate(JSON.parse(c.refuse))) return { error: `${c.name}: accepts what is to be refused` }
    }
    return {}
  }
  const c = cases[q.case]
  const text = q.refuse ? c.refuse : c.accept
  const validate = c.validate
  let valid = 0
  const start = process.hrtime.bigint()
  for (let i = 0; i < q.runs; i++) if (validate(JSON.parse(text))) valid++
  const ns = Number(process.hrtime.bigint() - start)
  if (valid !== (q.refuse ? 0 : q.runs)) return { error: `${c.name}: ${valid} of ${q.runs} valid` }
  return { ns }
}

readline.createInterface({ input: process.stdin }).on('line', line => {
  let a
  try {
    a = answer(line)
  } catch (e) {
    a = { error: String(e) }
  }
  process.stdout.write(JSON.stringify(a) + '\n')
})
