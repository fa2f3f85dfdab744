-- For wrk: posts the bodies in some files, in turn, and prints what came of it as one line of JSON.
-- Arguments: media type, milliseconds between an answer and the next request, files.

local requests, turn = {}, 0

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  local key = os.getenv("API_KEY") -- other users see the arguments
  if key and key ~= "" then
    wrk.headers["X-API-Key"] = key
  end
  if tonumber(args[2]) > 0 then
    delay = function() return tonumber(args[2]) end
  end
  for place = 3, #args do
    local file = assert(io.open(args[place], "rb"))
    wrk.body = file:read("*a")
    file:close()
    requests[#requests + 1] = wrk.format()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "failed": %d, "p50": %.3f, "p99": %.3f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
