@echo off
call "%~dp0rumi.bat" setup %*
exit /b %ERRORLEVEL%
