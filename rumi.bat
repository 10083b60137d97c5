@echo off
rem The operator's command on Windows. See the file "rumi" for what each step is for.
setlocal
set "ROOT=%~dp0"
set "PY=%ROOT%.venv\Scripts\python.exe"
set "STAMP=%ROOT%.venv\rumi.lock"
if not exist "%PY%" goto cold
fc /b "%ROOT%.venv\rumi.extra" "%ROOT%locks\extra.lock" >nul 2>nul || goto cold
for %%L in (runtime dev bench) do fc /b "%STAMP%" "%ROOT%locks\%%L.lock" >nul 2>nul && goto warm
:cold
for %%P in ("%RUMI_PYTHON%" "py -3" python3 python) do (
  if not "%%~P"=="" %%~P -I -c "import sys; sys.exit(sys.version_info < (3, 9))" >nul 2>nul && (
    %%~P -I "%ROOT%bootstrap.py" --rumi %*
    goto done
  )
)
echo rumi: Python 3.11 or newer is needed. Install it from the Microsoft Store or python.org, then run this again. 1>&2
exit /b 69
:warm
"%PY%" -I "%ROOT%rumi_setup\__main__.py" %*
:done
exit /b %ERRORLEVEL%
