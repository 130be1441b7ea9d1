// Keeps where somebody was, for after the login: the part of the address behind the #, which no server is told.

const form = document.querySelector("form");
// The answer to the form leads to the console's page, and a browser takes this part along. It names a page of the console and nothing else.
if (location.hash.startsWith("#/")) form.action = `/login${location.hash}`;
