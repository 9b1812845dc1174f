// agent.js URL FILE PAUSE: fetches and reads, prints what both gave, writes to PAUSE how long the event loop stood
// still (ms). A held connect is made on the event loop's own thread, so the loop waits with it; a held open is not.
const fs = require('node:fs')
const [url, path, pause] = process.argv.slice(2)
let last = performance.now()
let longest = 0
const ticks = setInterval(() => {
  const now = performance.now()
  longest = Math.max(longest, now - last)
  last = now
}, 10)
const word = error => `${(error.cause ?? error).code}: ${(error.cause ?? error).message}`
const read = new Promise(done => {
  fs.readFile(path, 'utf8', (error, text) => done(error ? word(error) : text.trim()))
})
// Later, so that the read is under way when the loop stands still.
const get = new Promise(done => setTimeout(done, 50))
  .then(() => fetch(url))
  .then(answer => answer.text())
  .then(text => text.trim(), word)
Promise.all([read, get]).then(([text, body]) => {
  clearInterval(ticks)
  console.log('fetch:', body)
  console.log('read:', text)
  fs.writeFileSync(pause, longest.toFixed(0))
})
