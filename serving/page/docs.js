// Shows openapi.json with swagger-ui. Requests carry the key that the draw page keeps for this tab.
const key = sessionStorage.getItem("relearn-key");

SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("api"),
  tryItOutEnabled: true,
  validatorUrl: null, // the default sends the document to another site
  requestInterceptor: (request) => {
    const names = Object.keys(request.headers).map((name) => name.toLowerCase());
    if (key && !names.includes("authorization") && !names.includes("x-api-key")) request.headers["X-API-Key"] = key;
    return request;
  },
});
