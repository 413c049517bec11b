/** Stylesheets are handled by the bundler: importing one gives nothing. */
declare module "*.css";
