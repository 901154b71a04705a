// Shows the OpenAPI document of this gateway; nothing comes from another host.
window.ui = SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
